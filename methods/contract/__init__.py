"""What every method owes the table: checks that a stranger's method passes like ours.

The checks are here, and what they are run on is not: a :class:`Rig` builds, steps and measures as the harness does
(``bench.commands.check.conformance`` has it), so that this room stays free of the harness's loop, and what passes
here is what a cell runs.

Each check either returns or raises :class:`Broken`, which says what was found and what to do about it, or
:class:`NotApplicable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from methods.contract import costs, surroundings, training
from methods.contract.rig import Broken, NotApplicable, Rig

Status = Literal["passed", "failed", "skipped"]


CHECKS: dict[str, Callable[[Rig], None]] = {
    "import": surroundings.imports_quietly,
    "builds": training.builds,
    "trains": training.trains,
    "loss-falls": training.loss_falls,
    "frozen-stays": training.frozen_stays,
    "counts": training.counts_right,
    "deterministic": training.is_deterministic,
    "saved": training.can_be_saved,
    "one-modality": surroundings.works_alone,
    "other-modality": surroundings.leaves_the_other_alone,
    "no-leaks": surroundings.leaves_nothing_behind,
    "memory": costs.memory_is_steady,
    "cached-equals-live": costs.cached_equals_live,
    "plan": costs.can_be_planned,
}
"""By name; what each asks is its docstring."""


@dataclass(frozen=True)
class Outcome:
    """Of one check.

    Attributes:
        status: passed, failed or skipped.
        finding: what was seen, or why it was skipped; "" when passed.
        advice: what to do; "" unless failed.
    """

    check: str
    asks: str
    status: Status
    finding: str = ""
    advice: str = ""


def outcomes(rig: Rig, explain: Callable[[Exception], str]) -> Iterator[Outcome]:
    """Runs the checks one after the other; what does not even build is not checked further.

    Args:
        explain: an error of the method's own code, in one line.
    """
    built = True
    for name, check in CHECKS.items():
        asks = (check.__doc__ or "").strip()
        if not built:
            yield Outcome(name, asks, "skipped", "it does not build")
            continue
        status, finding, advice = _run(check, rig, explain)
        yield Outcome(name, asks, status, finding, advice)
        built = not (name == "builds" and status == "failed")


def _run(check: Callable[[Rig], None], rig: Rig, explain: Callable[[Exception], str]) -> tuple[Status, str, str]:
    try:
        check(rig)
    except NotApplicable as reason:
        return "skipped", str(reason), ""
    except Broken as broken:
        return "failed", broken.finding, broken.advice
    except Exception as error:
        return "failed", explain(error), "mend the error"
    return "passed", "", ""
