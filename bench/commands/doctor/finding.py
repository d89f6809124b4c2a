"""What a check says, in one shape for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "warning", "wrong"]
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what was looked at.
        level: ``warning`` makes numbers doubtful or hard to compare, ``wrong`` makes them wrong or the run fail.
        finding: what there is.
        effect: what it does to the numbers; empty where there is nothing to say.
        mend: the command that mends it, empty when ok.
    """

    check: str
    level: Level
    finding: str
    effect: str = ""
    mend: str = ""


def ok(check: str, finding: str) -> Finding:
    """Nothing to mend."""
    return Finding(check, "ok", finding)


def unknown(check: str, why: str, effect: str, look: str) -> Finding:
    """What could not be found out is never ok: a warning that says so, and the command that would tell."""
    return Finding(check, "warning", f"unknown: {why}", effect, look)


def gib(count: float) -> str:
    """Bytes as people read them."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"
