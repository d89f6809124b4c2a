"""Which tuners of peft have been tried with this suite: a table that ``python -m tests.methods.peft.peft_trial``
writes.

Reading it imports nothing heavy; the list of the installed peft's own tuners takes seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("peft_tuners.json")
MODALITIES = ("text", "image")


def read_table() -> dict[str, Any]:
    """``peft``: the version tried; ``tuners``: type -> ``options`` and by modality "" or why it did not run."""
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


def tuners() -> list[dict[str, str]]:
    """Every tuner of the installed peft with what it has run on, and of what it has not, the reason."""
    from importlib.metadata import version

    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    table = read_table()
    doubt = (
        "" if table["peft"] == version("peft") else f"tried with peft {table['peft']}, {version('peft')} is installed"
    )
    known = sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING)
    return [_told(kind, table["tuners"].get(kind), doubt) for kind in known]


def _told(name: str, found: dict[str, Any] | None, doubt: str) -> dict[str, str]:
    if found is None:
        return {"name": name, "runs": "", "why_not": "not tried"}
    ran = [modality for modality in MODALITIES if not found[modality]]
    reasons = list(dict.fromkeys(found[modality] for modality in MODALITIES if found[modality]))
    return {"name": name, "runs": "+".join(ran), "why_not": "; ".join([*reasons, *([doubt] if doubt else [])])}
