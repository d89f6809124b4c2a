"""Live progress on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.config.cells import Cell
from bench.utils.text import printable


class Reporter(AbstractContextManager["Reporter"]):
    """Prints the progress of a run to standard error; call it with every event of every cell.

    Args:
        n_cells: number of cells of the run.
    """

    def __init__(self, n_cells: int):
        self.n_cells = n_cells
        self.done = 0
        self.started = time.monotonic()
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.bars: Progress | None = None
        self.all: TaskID | None = None
        # By cell id, since the events of cells that run side by side arrive mixed.
        self.tasks: dict[str, TaskID] = {}
        self.last: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Reporter:
        if sys.stderr.isatty():
            self.bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[facts]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.bars.start()
            self.all = self.bars.add_task(f"cells (0/{self.n_cells})", total=self.n_cells, facts="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def __call__(self, cell: Cell, event: dict[str, Any]) -> None:
        """Handle one event; unknown events are ignored."""
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(cell, event)

    def _print(self, text: str) -> None:
        self.console.print(printable(text), markup=False)

    def _on_start(self, cell: Cell, event: dict[str, Any]) -> None:
        self.last[cell.cell_id] = {}
        if self.bars is None:
            self._print(f"[{self.done + len(self.last)}/{self.n_cells}] {cell.cell_id}")
        else:
            self.tasks[cell.cell_id] = self.bars.add_task(cell.method.name, total=1.0, facts="set-up")

    def _update(self, cell: Cell, facts: str, completed: float | None = None) -> None:
        if self.bars is not None and cell.cell_id in self.tasks:
            self.bars.update(self.tasks[cell.cell_id], completed=completed, facts=facts)

    def _on_phase(self, cell: Cell, event: dict[str, Any]) -> None:
        self._update(cell, printable(event["phase"]))

    def _on_cache(self, cell: Cell, event: dict[str, Any]) -> None:
        facts = f"hidden states, {event['modality']}: {event['done']:,} of {event['total']:,} items"
        self._update(cell, facts, event["done"] / max(1, event["total"]))

    def _on_resumed(self, cell: Cell, event: dict[str, Any]) -> None:
        if self.bars is None:
            self._print(f"    {self._name(cell)}resumed after epoch {event['epoch']}")

    def _on_step(self, cell: Cell, event: dict[str, Any]) -> None:
        self.last[cell.cell_id] |= event
        self._update(cell, self._facts(cell), event["progress"])

    def _on_evaluation(self, cell: Cell, event: dict[str, Any]) -> None:
        last = self.last[cell.cell_id]
        last |= event
        if self.bars is None:
            seconds = f"{last['train_seconds']:.1f} s of training"
            self._print(f"    {self._name(cell)}epoch {event['epoch']}: {self._facts(cell)}, {seconds}")

    def _name(self, cell: Cell) -> str:
        """The cell that a line is about, where more than one runs."""
        return f"{cell.cell_id}, " if len(self.last) > 1 else ""

    def _facts(self, cell: Cell) -> str:
        last = self.last[cell.cell_id]
        valid = last.get("valid_hr@10")
        return f"loss {last['loss']:.3f}" + ("" if valid is None else f", validation HR@10 {valid:.4f}")

    def _on_kept(self, cell: Cell, event: dict[str, Any]) -> None:
        status = "" if event["status"] == "ok" else f": {event['status']}"
        self._finish(cell, f"{cell.cell_id}: kept from an earlier run{status}")

    def _on_done(self, cell: Cell, event: dict[str, Any]) -> None:
        if event["status"] == "ok":
            accuracy = f"HR@10 {event['hr@10']:.4f}" if cell.test else f"validation HR@10 {event['valid_hr@10']:.4f}"
            self._finish(cell, f"{cell.cell_id}: {accuracy}, {event['epoch_seconds']:.2f} s per epoch")
        else:
            self._finish(cell, f"{cell.cell_id}: {event['status']}: {event['error']}")

    def _finish(self, cell: Cell, line: str) -> None:
        self.done += 1
        self.last.pop(cell.cell_id, None)
        if self.bars is not None and self.all is not None:
            if cell.cell_id in self.tasks:
                self.bars.remove_task(self.tasks.pop(cell.cell_id))
            self.bars.update(self.all, completed=self.done, description=f"cells ({self.done}/{self.n_cells})")
        elapsed = time.monotonic() - self.started
        self._print(f"[{self.done}/{self.n_cells}] {line}  ({elapsed:.0f} s so far)")
