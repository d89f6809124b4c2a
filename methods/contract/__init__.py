"""Conformance checks for built-in and third-party methods.

The checks run on a :class:`Rig`, which builds, trains and measures a method as a cell does. The harness provides it
(``bench.commands.check.conformance``), so that this package does not import the training loop.

A check returns if the method passes. It raises :class:`CheckFailed`, with a finding and advice, or
:class:`NotApplicable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from methods.contract import costs, surroundings, training
from methods.contract.rig import CheckFailed, NotApplicable, Rig

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
"""Checks by name; the docstring of a check is the requirement that ``check`` prints."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of one check.

    Attributes:
        check: name of the check.
        asks: the requirement, in one sentence.
        status: passed, failed or skipped.
        finding: the observed violation, or why the check was skipped; "" if passed.
        advice: how to fix the violation; "" unless failed.
    """

    check: str
    asks: str
    status: Status
    finding: str = ""
    advice: str = ""


def outcomes(rig: Rig, explain: Callable[[Exception], str]) -> Iterator[Outcome]:
    """Run the checks one after the other; if the method does not build, the remaining ones are skipped.

    Args:
        rig: the method under test.
        explain: function that describes an error of the method's own code in one line.
    """
    built = True
    for name, check in CHECKS.items():
        asks = (check.__doc__ or "").strip()
        if not built:
            yield Outcome(name, asks, "skipped", "the method does not build")
            continue
        status, finding, advice = _run(check, rig, explain)
        yield Outcome(name, asks, status, finding, advice)
        built = not (name == "builds" and status == "failed")


def _run(check: Callable[[Rig], None], rig: Rig, explain: Callable[[Exception], str]) -> tuple[Status, str, str]:
    try:
        check(rig)
    except NotApplicable as reason:
        return "skipped", str(reason), ""
    except CheckFailed as failure:
        return "failed", failure.finding, failure.advice
    except Exception as error:
        return "failed", explain(error), "fix the error"
    return "passed", "", ""
