"""Protocol of a method, the standard item encoder, and access to method classes by name.

A method is a frozen dataclass; its fields are its options and can be set in a matrix file. There are two kinds.

* An :class:`EncoderMethod` reads raw items. Its ``adapt`` changes one encoder and returns the parameters to train; the
  base class freezes the other weights and adds the head and the learning-rate groups.
* A :class:`HiddenMethod` reads only the hidden states of the backbones' layers. The harness computes them live or,
  with ``cached = true``, reads them from a cache without loading the backbones.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.models.encoders import OUTPUT, Encoder, Inputs
from bench.models.quantisation import check_adapted
from bench.utils.errors import UserError
from bench.utils.text import did_you_mean
from methods.registry import known, register

Count = Annotated[int, Field(ge=1)]
"""Type of an option that is a count (rank, bottleneck, positions); values below 1 are refused before a run."""
Saver = Callable[[Path], None]
"""Function that writes trained weights into an existing folder."""
Layers = Literal["all", "even", "third", "first-middle-last", "last"] | tuple[int, ...]
"""Type of an option that selects layers: all, every second or third from the embedding layer on, a few, or a list of
numbers."""


@dataclass(frozen=True)
class Shape:
    """Size of one backbone.

    Attributes:
        width: width of a hidden state as the method gets it.
        depth: number of layers.
        widths: widths of the states after layers 0 to depth if some are narrower (Swin, ConvNeXt) and padded with
            zeros; None if all are ``width`` wide.
    """

    width: int
    depth: int
    widths: tuple[int, ...] | None = None

    def width_of(self, layer: int) -> int:
        """Width of the state after ``layer``, without padding."""
        return self.width if self.widths is None or layer == OUTPUT else self.widths[layer]


@dataclass
class Adaptation:
    """Result of adapting one encoder.

    Attributes:
        parameters: the parameters to train.
        lr: their learning rate.
        modules: number of adapted modules; 0 fails the cell's sanity check.
        save: writes the trained weights into a folder in the method's own format; None for the harness's format
            (``bench.cell.saved_weights``).
    """

    parameters: Iterable[nn.Parameter]
    lr: float
    modules: int
    save: Saver | None = None


@dataclass(frozen=True)
class Group:
    """Named group of trained parameters with one learning rate."""

    name: str
    lr: float
    parameters: tuple[nn.Parameter, ...]

    @property
    def count(self) -> int:
        """Number of trained values in the group."""
        return sum(p.numel() for p in self.parameters)


@dataclass(frozen=True)
class Step:
    """A finished optimizer step.

    Attributes:
        number: number of the step in training, from 1; 0 for a step outside of training (sanity check, probe,
            warm-up).
        of: number of steps of the whole training; 0 if unknown.
        updated: True if the weights were updated; a loss scaler skips the update if a gradient is not finite.
    """

    number: int = 0
    of: int = 0
    updated: bool = True


class StepHook(nn.Module, ABC):
    """Hook called after every optimizer step; its state lives in buffers.

    The training loop finds hooks among the modules of an encoder. State must be in buffers, so that it is saved in
    checkpoints and moved to the device. The time and memory of a hook count as part of the step.
    """

    @abstractmethod
    def reset(self) -> None:
        """Reset the state to that before the first step; called after sanity checks, probes and warm-up."""

    @abstractmethod
    def after(self, step: Step) -> None:
        """Called after a step, when weights are updated and gradients (unscaled, clipped) still exist."""

    def penalty(self) -> Tensor | None:
        """Term that is added to the minimised loss, not to the reported one; None for no term."""
        return None


Observed = dict[str, list[float]]
"""Values that a method reports during training, such as gates: name -> a value in 0 to 1 per block."""


class ItemEncoder(nn.Module):
    """Item encoder of a method: items in, one vector of width d per item out.

    Attributes:
        source: module from inputs to states by modality: encoders, or live or cached hidden states.
        head: module from states by modality to item vectors.
        groups: trained parameters and their learning rates.
        adapted: number of adapted modules by modality; the sanity check requires at least one per encoder.
        savers: functions that write the trained weights of an encoder, by modality, for methods with a format of their
            own.
    """

    def __init__(
        self,
        source: nn.Module,
        head: nn.Module,
        groups: Iterable[Group],
        adapted: Mapping[str, int],
        savers: Mapping[str, Saver] = MappingProxyType({}),
        observe: Callable[[nn.Module], Observed] = lambda _: {},
    ):
        super().__init__()
        self.source = source
        self.head = head
        self.groups = tuple(groups)
        self.adapted = dict(adapted)
        self.savers = dict(savers)
        self._observe = observe

    def observe(self) -> Observed:
        """Values that the method reports, such as gates; empty for most methods."""
        with torch.no_grad():
            return self._observe(self.head)

    def forward(self, inputs: Inputs) -> Tensor:
        """Item vectors, (n, d)."""
        return self.head(self.source(inputs))


class Outputs(nn.Module):
    """Pooled last hidden states of the encoders, by modality, each (n, width)."""

    def __init__(self, encoders: Mapping[str, Encoder]):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Run every encoder on its inputs."""
        return {modality: encoder(inputs) for modality, encoder in self.encoders.items()}


class Head(nn.Module):
    """Standard head, as in the IISAN paper's baselines: linear to d and GELU per encoder, concatenated, linear to d."""

    def __init__(self, widths: Mapping[str, int], d: int):
        super().__init__()
        self.project = nn.ModuleDict({modality: nn.Linear(width, d) for modality, width in widths.items()})
        self.fuse = nn.Linear(d * len(widths), d)

    def forward(self, states: Mapping[str, Tensor]) -> Tensor:
        """Item vectors, (n, d), from states by modality, each (n, width) or (n, 1, width)."""
        projected = [F.gelu(linear(states[m].flatten(1))) for m, linear in self.project.items()]
        return self.fuse(torch.cat(projected, dim=-1))


@dataclass(frozen=True)
class Method(ABC):
    """Base class of all methods, with the options that every method has.

    Default learning rates are in the range of the IISAN paper. Rates for the built-in shop are in the preset
    ``default``, from a search: shop 100, three trials per method, four epochs, validation HR@10.

    Attributes:
        reads: input of the method, "items" or "hidden".
        lr_head: learning rate of the heads and of the user encoder.
    """

    reads: ClassVar[str]
    lr_head: float = field(default=1e-4, kw_only=True)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.startswith("lr") and not 0 < value < float("inf"):
                raise UserError(f"option {name}: must be above 0 and finite, got {value}")

    def counted(self) -> tuple[str, ...]:
        """Counts among the entries of table-valued options, as "option.entry"; tuned like a :data:`Count`."""
        return ()

    def check_budget(self, steps: int | None) -> str:
        """Error message if the method cannot be trained for this number of steps (None: unknown), else ""."""
        return ""


@dataclass(frozen=True)
class EncoderMethod(Method):
    """Base class of methods that run the backbones on raw items in every step."""

    reads: ClassVar[str] = "items"

    @abstractmethod
    def adapt(self, encoder: Encoder) -> Adaptation:
        """Change one encoder in place, and return the parameters to train; all weights are frozen beforehand."""

    def check_encoder(self, encoder: Encoder) -> None:
        """Check options against an encoder that has sizes and no values, before any cell runs.

        Raises:
            UserError: an option names something that the encoder lacks, so that the run must not begin.
        """

    def build(self, encoders: Mapping[str, Encoder], d: int) -> ItemEncoder:
        """Build the item encoder from adapted encoders and the standard head.

        Args:
            encoders: encoders by modality.
            d: width of item vectors.

        Raises:
            UserError: the method does not fit an encoder, or trains quantised weights.
        """
        groups, adapted, savers = [], {}, {}
        for modality, encoder in encoders.items():
            encoder.requires_grad_(False)
            adaptation = self.adapt(encoder)
            parameters = tuple(adaptation.parameters)
            check_adapted(encoder, parameters)
            for parameter in parameters:
                parameter.requires_grad_(True)
            groups.append(Group(modality, adaptation.lr, parameters))
            adapted[modality] = adaptation.modules
            if adaptation.save is not None:
                savers[modality] = adaptation.save
        head = Head({modality: encoder.width for modality, encoder in encoders.items()}, d)
        groups.append(Group("head", self.lr_head, tuple(head.parameters())))
        return ItemEncoder(Outputs(encoders), head, groups, adapted, savers)


@dataclass(frozen=True)
class HiddenMethod(Method):
    """Base class of methods that read only the pooled hidden states of frozen backbones.

    Attributes:
        cached: True to read the states from the cache, without loading the backbones.
    """

    reads: ClassVar[str] = "hidden"
    cached: bool = field(default=False, kw_only=True)

    @abstractmethod
    def kept(self, shape: Shape) -> tuple[int, ...]:
        """Layers whose states the method needs; 0 is the embedding layer, OUTPUT the encoder's own output."""

    def kept_of(self, shapes: Mapping[str, Shape]) -> dict[str, tuple[int, ...]]:
        """Needed layers by modality; override it if the layers of one encoder depend on the other."""
        return {modality: self.kept(shape) for modality, shape in shapes.items()}

    @abstractmethod
    def network(self, shapes: Mapping[str, Shape], d: int) -> nn.Module:
        """Build the network that maps states by modality, each (n, kept layers, width), to item vectors (n, d)."""

    @abstractmethod
    def split(self, network: nn.Module) -> tuple[Group, ...]:
        """Learning-rate groups of the network; together they hold all its trained parameters."""

    def observe(self, network: nn.Module) -> Observed:
        """Values of the network to record with every evaluation, such as gates; reports draw them."""
        return {}

    def build(self, source: nn.Module, shapes: Mapping[str, Shape], d: int) -> ItemEncoder:
        """Build the item encoder over live or cached hidden states."""
        network = self.network(shapes, d)
        groups = self.split(network)
        adapted = {m: len(kept) for m, kept in self.kept_of(shapes).items()}
        return ItemEncoder(source, network, groups, adapted, observe=self.observe)


def chosen_layers(layers: Layers, shape: Shape) -> tuple[int, ...]:
    """Numbers of the layers that an option selects; 0 is the embedding layer.

    Raises:
        UserError: the list is empty, or the backbone lacks a layer of it.
    """
    if layers == "last":
        return (shape.depth,)
    if layers == "first-middle-last":
        return tuple(sorted({0, shape.depth // 2, shape.depth}))
    if isinstance(layers, str):
        return tuple(range(0, shape.depth + 1, {"all": 1, "even": 2, "third": 3}[layers]))
    if not layers or not all(0 <= layer <= shape.depth for layer in layers):
        raise UserError(
            f"option layers: a backbone of {shape.depth} layers has the layers 0 to {shape.depth}, got {list(layers)}"
        )
    return tuple(layers)


def method_class(kind: str) -> type[Method]:
    """Class of the method that is registered as ``kind``.

    Raises:
        UserError: unknown method (the message has the nearest known name), or its class cannot be imported or is not a
            method.
    """
    if kind not in known():
        raise UserError(f"unknown method {kind!r}{did_you_mean(kind, known())}")
    entry = known()[kind]
    module, _, name = entry.target.partition(":")
    if not entry.origin:
        cls: type[Method] = getattr(importlib.import_module(module), name)
        return cls
    return checked_class(f"method {kind} ({entry.origin})", entry.target)


def checked_class(where: str, target: str) -> type[Method]:
    """Import ``module:Class`` of a third party and check that it is a complete method.

    Args:
        where: the method and its origin, for messages.
        target: ``module:Class``.

    Raises:
        UserError: the class cannot be imported or is not a complete method; the message says what to do.
    """
    module, _, name = target.partition(":")
    try:
        cls = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        raise UserError(f"{where}: {module} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, EncoderMethod | HiddenMethod)):
        raise UserError(
            f"{where}: {name} must be a class at the top level of its file, derived from EncoderMethod or HiddenMethod"
        )
    if "__dataclass_fields__" not in vars(cls):
        raise UserError(f"{where}: class {name} is not a dataclass: put @dataclass(frozen=True) above it")
    if cls.__abstractmethods__:
        raise UserError(f"{where}: class {name} does not define {', '.join(sorted(cls.__abstractmethods__))}")
    return cls


__all__ = [
    "OUTPUT",
    "Adaptation",
    "Count",
    "Encoder",
    "EncoderMethod",
    "Group",
    "Head",
    "HiddenMethod",
    "ItemEncoder",
    "Layers",
    "Method",
    "Observed",
    "Shape",
    "Step",
    "StepHook",
    "checked_class",
    "chosen_layers",
    "method_class",
    "register",
]
