"""Which methods there are: one line each. Imports nothing heavy, so that ``list`` answers at once.

Three kinds of them: those of this package, those that an installed package announces in the entry-point group
``iisan_bench.methods``, and those that a method file registers while it is loaded (``methods.loading``).
"""

from __future__ import annotations

import sys
from collections import ChainMap
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from bench.utils.errors import UserError

GROUP = "iisan_bench.methods"
Class = TypeVar("Class", bound=type)


class Entry(NamedTuple):
    """A method by name.

    Attributes:
        target: ``module:Class``.
        summary: what it trains, in one line.
        preset: options that the name stands for.
        origin: absolute path of the method file, or name and version of the installed package; "" for our own.
    """

    target: str
    summary: str
    preset: Mapping[str, Any] = MappingProxyType({})
    origin: str = ""


REGISTRY: dict[str, Entry] = {
    "fft": Entry("methods.fft:FullFineTuning", "full fine-tuning: every weight of both encoders"),
    "frozen": Entry("methods.frozen:Frozen", "frozen encoders, only the head and the user encoder train"),
    "bitfit": Entry("methods.bitfit:BitFit", "every bias of the encoders (Ben Zaken et al. 2022)"),
    "adapter": Entry("methods.adapter:Adapter", "two bottleneck adapters per layer (Houlsby et al. 2019)"),
    "lora": Entry("methods.peft.lora:LoRA", "low-rank updates of query and value, by peft (Hu et al. 2022)"),
    "peft": Entry("methods.peft.tuner:Tuner", "any tuner of peft: peft = { type, target, ... }; IA3 unless told"),
    "prefix": Entry("methods.peft.prefix:Prefix", "trained keys and values before each layer's own (Li & Liang 2021)"),
    "iisan": Entry("methods.iisan:IISAN", "side networks on hidden states, computed in every step (Fu et al. 2024)"),
    "iisan-cached": Entry("methods.iisan:IISAN", "the same, on hidden states cached once", {"cached": True}),
    "lst": Entry("methods.lst:LST", "ladder side networks on hidden states (after Sung et al. 2022)"),
    "lst-cached": Entry("methods.lst:LST", "the same, on hidden states cached once", {"cached": True}),
    "linear-probe": Entry("methods.linear_probe:LinearProbe", "a learned mixture of all layers' states, and the head"),
    "linear-probe-cached": Entry(
        "methods.linear_probe:LinearProbe", "the same, on hidden states cached once", {"cached": True}
    ),
}

FROM_FILES: dict[str, Entry] = {}
"""Filled by :func:`register` and emptied by ``methods.loading``, a file at a time."""


def known() -> Mapping[str, Entry]:
    """Every method there is in this process, by name.

    Raises:
        UserError: an installed package announces a name that is taken.
    """
    return ChainMap(FROM_FILES, installed(), REGISTRY)


@cache
def installed() -> dict[str, Entry]:
    """The methods of installed packages; nothing of them is imported.

    Raises:
        UserError: a name that is taken, or an entry point that names no class.
    """
    from importlib.metadata import entry_points

    found: dict[str, Entry] = {}
    for point in entry_points(group=GROUP):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"
        where = f"entry point {point.name!r} of {package}"
        if not (point.module and point.attr):
            raise UserError(f"{where}: expected module:Class, got {point.value!r}")
        if point.name in REGISTRY or point.name in found:
            raise UserError(f"{where}: a method of this name exists; uninstall the package or have the name changed")
        found[point.name] = Entry(f"{point.module}:{point.attr}", f"from {package}", origin=package)
    return found


def register(name: str, **preset: Any) -> Callable[[Class], Class]:
    """Makes a class of a method file a method of this name; options given here are what the name stands for.

    May be put above a class several times, with a name each. The class's docstring tells ``list`` what it trains.

    Raises:
        UserError: the name is taken.
    """

    def enter(cls: Class) -> Class:
        target = f"{cls.__module__}:{cls.__qualname__}"
        taken = known().get(name)
        if taken is not None and taken.target != target:
            where = taken.origin or "built in"
            raise UserError(f"a method {name!r} exists already ({where}); choose another name")
        if taken is None:
            file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
            FROM_FILES[name] = Entry(target, _summary(cls), preset, file)
        return cls

    return enter


def _summary(cls: type) -> str:
    """First line of the docstring; one that a dataclass made of its signature says nothing."""
    text = (cls.__doc__ or "").strip()
    if not text or text.startswith(f"{cls.__name__}("):
        return f"class {cls.__name__}"
    return text.splitlines()[0].rstrip(".")
