"""What a cell's process starts with, before anything heavy is imported: it must not outlive the process that began it.

    python -m bench.cell_process CELL.json FOLDER

With IISAN_BENCH_PARENT set, standard input is a pipe of that process: when it closes, the other end is gone, killed
perhaps, and this process ends with all that it started. SIGUSR1 writes the stacks of all threads to standard error.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading


def die_with_parent() -> None:
    """Starts the thread that waits for the parent's end of standard input to close."""
    threading.Thread(target=_wait_for_end, daemon=True, name="parent watch").start()


def _wait_for_end() -> None:
    while os.read(0, 1 << 10):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    """Entry point."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    if "IISAN_BENCH_PARENT" in os.environ:
        die_with_parent()
    from bench.cell import main as run

    run(sys.argv[1:])


if __name__ == "__main__":
    main()
