"""Options of a report; everything else in a report comes from the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.scoring import tpme
from bench.scoring.pscp import Penalties

Costs = Mapping[str, Mapping[str, float]]
"""Costs by method: time, params and memory."""


@dataclass(frozen=True)
class Options:
    """Values of k for the ranking metrics, settings of TPME and PSCP, and what the verdict recommends by."""

    ks: tuple[int, ...] = (10,)
    weights: tuple[float, ...] = tpme.WEIGHTS
    reference: Costs | None = None
    """Table that sets the minima and maxima of the TPME: seconds per epoch, trainable parameters, bytes."""
    reference_name: str = ""
    penalties: Penalties = field(default_factory=Penalties)
    within: float = 0.05
    """Share of the highest HR@10 that a cheaper method may lack to be recommended."""
    price_per_hour: float | None = None
    """Price of an hour of the device, in any currency; None if no price is given."""

    def tpme_of(self, costs: Costs) -> dict[str, float]:
        """TPME by method, with these weights and this reference.

        Raises:
            UserError: as `bench.scoring.tpme.tpme`.
        """
        return tpme.tpme(costs, self.weights, self.reference)


DEFAULT = Options()
