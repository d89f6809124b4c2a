"""Level of a finding of doctor."""

from __future__ import annotations

from bench.commands.doctor.finding import Finding


def level_of(finding: Finding) -> str:
    """The level, "unknown" apart from other warnings; and the shape that holds for all findings."""
    assert bool(finding.mend) == bool(finding.effect) == (finding.level != "ok"), finding
    return "unknown" if finding.finding.startswith("unknown: ") else finding.level
