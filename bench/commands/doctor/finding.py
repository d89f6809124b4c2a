"""The finding of a check of this machine: its level, its effect on the measurements and the command that fixes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "warning", "wrong"]
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        check: name of the check, such as "gpu memory".
        level: ``warning`` if measurements become doubtful or hard to compare; ``wrong`` if they become wrong or the run
            fails.
        finding: observed state.
        effect: effect on the measurements; empty if the level is ok.
        mend: command that fixes it or shows more; empty if the level is ok.
    """

    check: str
    level: Level
    finding: str
    effect: str = ""
    mend: str = ""


def ok(check: str, finding: str) -> Finding:
    """A finding of level ok."""
    return Finding(check, "ok", finding)


def unknown(check: str, why: str, effect: str, look: str) -> Finding:
    """Warning that a state could not be read; an unknown state never counts as ok.

    Args:
        look: command that shows the state.
    """
    return Finding(check, "warning", f"unknown: {why}", effect, look)


def gib(count: float) -> str:
    """Bytes as text in GiB, or in MiB below 0.1 GiB."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"
