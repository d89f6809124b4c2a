"""Kills a run again and again at random moments and shows that nothing is lost and nothing is done twice.

    python -m tests.benchmarks.kill --kills 50 --preset smoke

Each time the whole process group gets SIGKILL, and the run is started again on the same folder; once a matrix is
finished it is compared with one that was left alone, and the next begins. Exit status 0: no finished cell was lost or
run again, no process survived, all figures but times are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent.parent
# Not of the measurement, or different each time by nature.
TIMES = ("_seconds", "seconds_", "rss_bytes", "warnings")


def start(options: list[str], out: Path) -> subprocess.Popen[bytes]:
    """A run in a process group of its own."""
    command = [sys.executable, str(ROOT / "run_bench.py"), "run", *options, "--out", str(out)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)


def finished(out: Path) -> dict[str, tuple[int, bytes]]:
    """Cell -> inode and content of its record, of the cells that ended ok."""
    found = {}
    for path in out.glob("cells/*/record.json"):
        content = path.read_bytes()
        if json.loads(content)["row"]["status"] == "ok":
            found[path.parent.name] = (path.stat().st_ino, content)
    return found


def figures(out: Path) -> dict[str, Any]:
    """Everything of the records that must not depend on how often a run was killed."""
    found = {}
    for path in sorted(out.glob("cells/*/record.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        row = {key: value for key, value in record["row"].items() if not any(part in key for part in TIMES)}
        losses = [line.rpartition(",")[2] for line in (path.parent / "steps.csv").read_text().splitlines()]
        found[path.parent.name] = {
            "row": row,
            "memory": record["memory"],
            "losses": losses,
            "ranks": (path.parent / "ranks.csv").read_text(),
        }
    return found


def kill(process: subprocess.Popen[bytes]) -> int:
    """SIGKILL to the group; the number of processes that are still there five seconds later."""
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=5)
    return len([p for p in alive if p.status() != psutil.STATUS_ZOMBIE])


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args, options = parser.parse_known_args()
    draw = random.Random(args.seed)
    lost = repeated = survivors = kills = matrices = different = 0
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        assert start(options, Path(scratch) / "alone").wait() == 0
        whole = time.monotonic() - began
        expected = figures(Path(scratch) / "alone")
        while kills < args.kills:
            matrices += 1
            out = Path(scratch) / f"killed-{matrices}"
            known: dict[str, tuple[int, bytes]] = {}
            while True:
                process = start(options, out)
                wait = draw.uniform(0, whole) if kills < args.kills else None
                try:
                    status = process.wait(timeout=wait)
                except subprocess.TimeoutExpired:
                    survivors += kill(process)
                    kills += 1
                    status = None
                now = finished(out)
                lost += len(known.keys() - now.keys())
                repeated += sum(now[cell] != known[cell] for cell in known.keys() & now.keys())
                known = now
                if status is not None:
                    assert status == 0, f"ended with {status}"
                    break
            different += figures(out) != expected
            print(
                f"{kills} kills, {matrices} matrices of {len(expected)} cells: {lost} finished cells lost, {repeated} "
                f"repeated, {survivors} processes left, {different} matrices with other figures",
                flush=True,
            )
    return int(bool(lost or repeated or survivors or different))


if __name__ == "__main__":
    sys.exit(main())
