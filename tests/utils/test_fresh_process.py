"""Calls in a process of their own: results, errors, deaths, and that nobody is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from bench.utils.errors import UserError
from bench.utils.fresh_process import call
from tests.utils import functions


def test_result_and_progress_come_back() -> None:
    told: list[Any] = []
    result = call(functions.count, 3, progress=lambda *values: told.append(values))
    assert (result["sum"], told) == (3, [("text", 0, 3), ("text", 1, 3), ("text", 2, 3)])
    assert result["process"] != os.getpid()
    assert not psutil.pid_exists(result["process"])


@pytest.mark.parametrize(
    "error",
    [
        UserError("--bad-images: 3 pictures cannot be decoded"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError("host"),
        OSError(28, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_raised_as_it_was_there(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        call(functions.fail, error, progress=print)
    assert (type(raised.value), str(raised.value)) == (type(error), str(error))
    assert "functions.py" in "".join(traceback.format_exception(raised.value)), "the traceback of the other process"


def test_an_error_that_cannot_be_sent_keeps_its_text() -> None:
    with pytest.raises(RuntimeError) as raised:
        call(functions.fail_oddly, progress=print)
    assert str(raised.value) == "Odd: text: no memory"
    assert "functions.py" in "".join(traceback.format_exception(raised.value))


def test_an_error_of_the_caller_ends_the_process() -> None:
    def refuse(*values: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(functions.count, 3, progress=refuse)
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_a_process_that_ends_without_a_result() -> None:
    with pytest.raises(RuntimeError, match="the process of leave ended with status 3 and without a result"):
        call(functions.leave, 3, progress=print)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_takes_the_caller_with_it(number: signal.Signals, tmp_path: Path) -> None:
    """The supervisor of a cell then says the same as if the cell itself had been killed, for lack of memory maybe."""
    program = (
        "from bench.utils.fresh_process import call; from tests.utils import functions\n"
        f"if __name__ == '__main__': call(functions.die, {int(number)}, progress=print)\n"
    )
    (tmp_path / "program.py").write_text(program)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True)
    assert done.returncode == -number, done.stderr
