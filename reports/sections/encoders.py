"""Table of the encoders of a run: their pooling, why it was taken, and what items go through before them."""

from __future__ import annotations

from collections.abc import Mapping

from reports.load.run_folders import Run
from reports.text import escape, table

_COLUMNS = {"Encoder": "model", "Modality": "modality", "Pooling": "pooling", "Why": "why", "Items": "items"}


def section(run: Run) -> str:
    """The table, from ``dataset.json``; empty for a run that does not describe its encoders."""
    listed = run.dataset.get("encoders")
    facts = [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
    rows = [[escape(entry.get(key) or "unknown") for key in _COLUMNS.values()] for entry in facts]
    return table(list(_COLUMNS), rows, numbers_from=len(_COLUMNS)) if rows else ""
