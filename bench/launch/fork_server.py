"""Fork server: starts cells as forks of one process that has imported everything and has run nothing.

A cell needs several seconds to import torch, transformers and peft. The server of ``multiprocessing`` (start method
"forkserver") imports them once per run, so that each cell is still a fresh process without the state of earlier cells:
no CUDA context, no thread and no random number is older than the cell.

The resident memory of a cell counts the pages of libraries that it has touched, and not those that only the imports
touched: about 90 MiB less than in a new interpreter.

The server ends with the process that started it, and cells watch that process themselves (``bench.launch.worker``).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO

from bench.launch.affinity import THREADS

PRELOADED = "bench.launch.preload"
MKL_THREADS = "MKL_NUM_THREADS"
_CONTEXT = multiprocessing.get_context("forkserver")
_STARTING = threading.Lock()


class ForkedProcess:
    """Process that the fork server started, with the methods of ``subprocess.Popen`` that a supervisor needs.

    Attributes:
        pid: process id; the process leads its own session.
        stdin, stdout: ends of pipes to its standard input and from its standard output.
    """

    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def __init__(self, process: BaseProcess, stdin: IO[bytes], stdout: IO[bytes]):
        assert process.pid is not None
        self._process = process
        self.pid = process.pid
        self.stdin, self.stdout = stdin, stdout

    def poll(self) -> int | None:
        """Exit status, or minus the number of the signal that ended the process; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process.

        Raises:
            subprocess.TimeoutExpired: it runs on after ``timeout`` seconds.
        """
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return code

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        """Send SIGTERM, unless the process has ended."""
        self.send_signal(signal.SIGTERM)


def start(module: str, arguments: Sequence[str], errors: int, environment: Mapping[str, str]) -> ForkedProcess:
    """Run a module as ``python -m`` does, in a fork of the server, which is started if it does not run.

    Args:
        module: name of the module.
        arguments: its command line.
        errors: file descriptor of its standard error.
        environment: all of its environment variables. What a library reads when it is imported, it has read from the
            environment of the process that started the server.
    """
    (their_in, our_in), (our_out, their_out) = os.pipe(), os.pipe()
    streams = Connection(their_in, writable=False), Connection(their_out), Connection(os.dup(errors))
    with contextlib.ExitStack() as stack, _STARTING:
        for stream in streams:
            stack.enter_context(stream)
        prepare(environment)
        process = _CONTEXT.Process(target=_run, args=(module, arguments, streams, dict(environment)), name=module)
        process.start()
    return ForkedProcess(process, os.fdopen(our_in, "wb"), os.fdopen(our_out, "rb", buffering=0))


def prepare(environment: Mapping[str, str]) -> None:
    """Start the server if it does not run, and do not wait for its imports.

    Args:
        environment: of a cell; the server imports the same code, from its PYTHONPATH.
    """
    before = os.environ.get("PYTHONPATH")
    _CONTEXT.set_forkserver_preload([PRELOADED])
    # Ctrl-C in a terminal reaches the server too, which learns to ignore it only after its imports.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        os.environ["PYTHONPATH"] = environment["PYTHONPATH"]
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def has_cuda_driver(maps: Path = Path("/proc/self/maps")) -> bool:
    """True if a library that the server imported has loaded the CUDA driver, which does not work in a fork.

    Such a fork starts the program anew, as a library may be installed that asks for GPUs when it is imported.
    """
    try:
        return "/libcuda.so" in maps.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _run(module: str, arguments: Sequence[str], streams: Sequence[Connection], environment: Mapping[str, str]) -> None:
    """Body of the forked process: its own session, streams, environment and number of threads, then the module."""
    import torch  # imported by the server

    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    if has_cuda_driver():
        os.execve(sys.executable, [sys.executable, "-m", module, *arguments], environment)
    threads = environment.get(THREADS, "").partition(",")[0]
    # Torch has read the server's variables. That of MKL counts for more, and is the same in server and fork.
    by_mkl = MKL_THREADS in environment and torch.backends.mkl.is_available()
    if threads.isdigit() and environment.get(THREADS) != os.environ.get(THREADS) and not by_mkl:
        torch.set_num_threads(int(threads))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
