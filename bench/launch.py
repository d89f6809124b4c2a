"""From cells to processes. Each cell runs alone in a fresh interpreter; what it says is handed on as events."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import records
from bench.matrix import Cell

ROOT = Path(__file__).parent.parent
Event = dict[str, Any]


def run_local(cells: list[Cell], run: Path, report: Callable[[Cell, Event], None]) -> None:
    """Runs cells one after the other on this machine; finished ones of an earlier run are kept.

    A cell that dies without a record, killed by the kernel for instance, gets one from here. An interrupt stops the
    running cell and is raised again; what is finished stays.
    """
    for cell in cells:
        if records.finished(run, cell.cell_id):
            report(cell, {"event": "kept"})
            continue
        folder = records.cell_folder(run, cell.cell_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").unlink(missing_ok=True)
        report(cell, {"event": "start"})
        try:
            code = _run_one(cell, folder, report)
        except KeyboardInterrupt:
            records.write_record(folder, records.failure(cell, "interrupted", "stopped from the keyboard"))
            raise
        if not (folder / "record.json").is_file():
            records.write_record(folder, _died(cell, code, folder))
        report(cell, {"event": "done", **_outcome(folder)})


def _outcome(folder: Path) -> Event:
    row = json.loads((folder / "record.json").read_text(encoding="utf-8"))["row"]
    return {key: row[key] for key in ("status", "error", "hr@10", "epoch_seconds", "peak_memory_bytes")}


def _run_one(cell: Cell, folder: Path, report: Callable[[Cell, Event], None]) -> int:
    with tempfile.TemporaryDirectory(prefix="iisan-bench-") as scratch, (folder / "stderr.txt").open("wb") as errors:
        spec = Path(scratch) / "cell.json"
        spec.write_text(cell.to_json(), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.cell", str(spec), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(),
        )
        try:
            for event in _events(process):
                report(cell, event)
            return process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(timeout=3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise


def _environment() -> dict[str, str]:
    """The child imports the same code as this process, installed or not."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p), "TOKENIZERS_PARALLELISM": "false"}


def _events(process: subprocess.Popen[str]) -> Iterator[Event]:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a library printed something
        if isinstance(event, dict) and "event" in event:
            yield event


def _died(cell: Cell, code: int, folder: Path) -> dict[str, Any]:
    """The record of a cell that left none: SIGKILL is what the kernel sends when the host's memory is full."""
    if code == -9:
        return records.failure(cell, "oom-host", "the process was killed (signal 9), most likely out of host memory")
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    tail = (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    said = f": {tail[0]}" if tail else ""
    return records.failure(cell, "failed", f"the process died with {how}{said}")
