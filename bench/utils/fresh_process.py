"""Calls of functions in a process of their own, so that nothing of their memory stays in this one."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


def call(function: Callable[..., Any], *arguments: Any, progress: Callable[..., Any]) -> Any:
    """Call ``function(*arguments, progress)`` in a fresh process; return its result or raise its exception.

    The exception carries the traceback of the other process as a note. If that process is killed by a signal, this
    one ends by the same signal, as if it had made the call itself.

    Args:
        function: function of a module, with arguments and a result that can be pickled.
        progress: called here with the arguments of each call there.

    Raises:
        RuntimeError: the process ended without a result.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, function, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        while True:
            kind, value = receiver.recv()
            if kind == "result":
                return value
            if kind == "error":
                raise value
            progress(*value)
    except EOFError:
        process.join()
    finally:
        process.kill()
        process.join()
        receiver.close()
    code = process.exitcode or 0
    if code < 0:
        signal.raise_signal(-code)
    raise RuntimeError(f"the process of {function.__name__} ended with status {code} and without a result")


def _serve(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Make the call in the fresh process and send what comes of it."""
    try:
        message = "result", function(*arguments, lambda *values: sender.send(("progress", values)))
    except Exception as error:
        sent = _sendable(error)
        sent.add_note("".join(traceback.format_exception(error)))
        message = "error", sent
    sender.send(message)


def _sendable(error: Exception) -> Exception:
    """The exception itself, or its text if it cannot be made again from its arguments."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
