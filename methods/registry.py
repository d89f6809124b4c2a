"""Which methods there are: one line each. Imports nothing heavy, so that ``list`` answers at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A method by name.

    Attributes:
        target: ``module:Class``.
        summary: what it trains, in one line.
        preset: options that the name stands for.
    """

    target: str
    summary: str
    preset: Mapping[str, Any] = MappingProxyType({})


REGISTRY: dict[str, Entry] = {
    "fft": Entry("methods.fft:FullFineTuning", "full fine-tuning: every weight of both encoders"),
    "frozen": Entry("methods.frozen:Frozen", "frozen encoders, only the head and the user encoder train"),
    "bitfit": Entry("methods.bitfit:BitFit", "every bias of the encoders (Ben Zaken et al. 2022)"),
    "adapter": Entry("methods.adapter:Adapter", "two bottleneck adapters per layer (Houlsby et al. 2019)"),
    "lora": Entry("methods.lora:LoRA", "low-rank updates of query and value, by peft (Hu et al. 2022)"),
    "prefix": Entry("methods.prefix:Prefix", "trained keys and values before each layer's own (Li & Liang 2021)"),
    "iisan": Entry("methods.iisan:IISAN", "side networks on hidden states, computed in every step (Fu et al. 2024)"),
    "iisan-cached": Entry("methods.iisan:IISAN", "the same, on hidden states cached once", {"cached": True}),
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean …?' with the nearest known word, or the list of known words."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
