"""What a cell's process starts with, before anything heavy is imported: it must not outlive the process that began it.

    python -m bench.launch.worker CELL.json FOLDER

With IISAN_BENCH_PARENT set, standard input is a pipe of that process: when it closes, the other end is gone, killed
perhaps, and this process ends with all that it started. SIGUSR1 writes the stacks of all threads to standard error.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading

PARENT = "IISAN_BENCH_PARENT"


def die_with(pipe: int) -> None:
    """Kills the process's group as soon as the other end of the pipe is closed, which a parent's death does too.

    Only a group that the process leads is its own; in another one, a shell's, it kills itself alone.
    """
    try:
        while os.read(pipe, 4096):
            pass
    except OSError:
        pass  # nothing to be read from is nobody
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def watch_parent() -> None:
    """Starts a thread that waits for the end of standard input, which is empty for everybody else from now on."""
    pipe = os.dup(0)  # not handed on to children
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    threading.Thread(target=die_with, args=(pipe,), name="parent", daemon=True).start()


def main() -> None:
    """Entry point."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    if os.environ.pop(PARENT, ""):
        watch_parent()
    # Importing takes seconds, in which a parent can die and somebody can ask for stacks.
    from bench.cell.run_cell import main as run

    run(sys.argv[1:])


if __name__ == "__main__":
    main()
