"""Entry point of a cell's process: watches the parent process, then imports and runs the cell.

    python -m bench.launch.worker CELL.json FOLDER [REQUESTED]

REQUESTED is the reading of ``time.monotonic`` at which the launcher asked for the process, from which the record has
the seconds of the start.

If IISAN_BENCH_PARENT is set, standard input is a pipe from the parent. The pipe closes when the parent ends, even if it
is killed; this process then ends with all processes that it started. SIGUSR1 writes the stacks of all threads to
standard error.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading

from bench.launch.affinity import pin

PARENT_VARIABLE = "IISAN_BENCH_PARENT"


def kill_when_closed(pipe: int) -> None:
    """Wait until the other end of a pipe closes, as it does when the parent ends, then kill this process.

    The whole process group is killed if this process leads it; a group led by another process, such as a shell, is
    left alone.
    """
    try:
        while os.read(pipe, 4096):
            pass
    except OSError:
        pass  # an unreadable pipe means that the parent is gone
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def watch_parent() -> None:
    """Start a thread that waits for the end of standard input; other readers of standard input get an empty file."""
    pipe = os.dup(0)  # children do not inherit the duplicate
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    threading.Thread(target=kill_when_closed, args=(pipe,), name="parent", daemon=True).start()


def main() -> None:
    """Set up signals and the watch on the parent, then run the cell."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    pin()  # before any thread starts
    if os.environ.pop(PARENT_VARIABLE, ""):
        watch_parent()
    # Imported last: the import takes seconds, in which the parent may end or stacks may be requested.
    from bench.cell.run_cell import main as run

    run(sys.argv[1:])


if __name__ == "__main__":
    main()
