"""Registry of methods by name: built in, from installed packages, and from method files.

Installed packages announce methods in the entry-point group ``iisan_bench.methods``; method files register them while
they are loaded (``methods.loading``). The module imports neither torch nor the methods, so ``list`` is fast.
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
    """Entry of the registry.

    Attributes:
        target: ``module:Class`` of the method.
        summary: one line about what the method trains.
        preset: options that the name implies.
        origin: absolute path of the method file, or name and version of the installed package; "" if built in.
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
    "peft": Entry("methods.peft.tuner:Tuner", "any tuner of peft: peft = { type, target, ... }; IA3 by default"),
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
"""Methods of loaded method files; :func:`register` adds them, ``methods.loading`` removes those of a file."""


def known() -> Mapping[str, Entry]:
    """All methods of this process, by name.

    Raises:
        UserError: an installed package announces a name that is taken.
    """
    return ChainMap(FROM_FILES, installed(), REGISTRY)


@cache
def installed() -> dict[str, Entry]:
    """Methods of installed packages, which are not imported.

    Raises:
        UserError: a name is taken, or an entry point is not of the form module:Class.
    """
    from importlib.metadata import entry_points

    entries: dict[str, Entry] = {}
    for point in entry_points(group=GROUP):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"
        where = f"entry point {point.name!r} of {package}"
        if not (point.module and point.attr):
            raise UserError(f"{where}: expected module:Class, got {point.value!r}")
        if point.name in REGISTRY or point.name in entries:
            raise UserError(f"{where}: a method with this name exists; uninstall the package or change the name in it")
        entries[point.name] = Entry(f"{point.module}:{point.attr}", f"from {package}", origin=package)
    return entries


def register(name: str, **preset: Any) -> Callable[[Class], Class]:
    """Decorator that registers a class of a method file as a method.

    A class can be registered under several names. The first line of its docstring is its summary in ``list``.

    Args:
        name: name of the method.
        preset: options that the name implies.

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
    """First line of a class's docstring; the class's name if it has none or only the signature that dataclass makes."""
    text = (cls.__doc__ or "").strip()
    if not text or text.startswith(f"{cls.__name__}("):
        return f"class {cls.__name__}"
    return text.splitlines()[0].rstrip(".")
