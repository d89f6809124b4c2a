"""What a reader may choose about a report; everything else comes from the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.scoring import tpme
from bench.scoring.pscp import Penalties

Costs = Mapping[str, Mapping[str, float]]
"""Method -> time, params, memory."""


@dataclass(frozen=True)
class Options:
    """Which k the ranking metrics are computed for, and how the scores are made."""

    ks: tuple[int, ...] = (10,)
    weights: tuple[float, ...] = tpme.WEIGHTS
    reference: Costs | None = None
    """Pins minima and maxima of the TPME: seconds per epoch, trained values, bytes."""
    reference_name: str = ""
    penalties: Penalties = field(default_factory=Penalties)

    def tpme_of(self, costs: Costs) -> dict[str, float]:
        """TPME under these weights and this reference.

        Raises:
            UserError: as `bench.scoring.tpme.tpme`.
        """
        return tpme.tpme(costs, self.weights, self.reference)


DEFAULT = Options()
