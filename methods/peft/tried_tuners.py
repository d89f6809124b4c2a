"""Table of the tuners of peft that were tried with this suite, made by ``python -m tests.methods.peft.peft_trial``.

:func:`read_table` imports nothing heavy; :func:`tuners` imports peft, which takes seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("peft_tuners.json")
MODALITIES = ("text", "image")


def read_table() -> dict[str, Any]:
    """The table: ``peft`` is the tried version; ``tuners`` has options and, by modality, "" or why it did not run."""
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


def tuners() -> list[dict[str, str]]:
    """All tuners of the installed peft: name, modalities on which they ran, and reasons why they did not run."""
    from importlib.metadata import version

    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    table = read_table()
    caveat = (
        "" if table["peft"] == version("peft") else f"tried with peft {table['peft']}, {version('peft')} is installed"
    )
    known = sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING)
    return [_row(kind, table["tuners"].get(kind), caveat) for kind in known]


def _row(name: str, entry: dict[str, Any] | None, caveat: str) -> dict[str, str]:
    if entry is None:
        return {"name": name, "runs": "", "why_not": "not tried"}
    ran = [modality for modality in MODALITIES if not entry[modality]]
    reasons = list(dict.fromkeys(entry[modality] for modality in MODALITIES if entry[modality]))
    return {"name": name, "runs": "+".join(ran), "why_not": "; ".join([*reasons, *([caveat] if caveat else [])])}
