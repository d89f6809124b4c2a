"""The protocol of a method, the standard item encoder, and the registry.

A method is a frozen dataclass: its fields are its options and can be set in a matrix file. There are two kinds.

* An :class:`EncoderMethod` reads raw items. It says in ``adapt`` what it changes in one encoder and what trains;
  the rest (frozen weights, head, learning-rate groups) is done here.
* A :class:`HiddenMethod` reads the backbones' per-layer hidden states and nothing else. The harness computes them
  live or, with ``cached = true``, serves them from the cache without ever loading the backbones.
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
"""Type of an option that counts something (rank, bottleneck, positions): less than one is refused before a run."""
Saver = Callable[[Path], None]
"""Writes into a folder that is there."""
Layers = Literal["all", "even", "third", "first-middle-last", "last"] | tuple[int, ...]
"""Type of an option that says which layers: all, every second or third one from the embedding layer on, a few, or a
list."""


@dataclass(frozen=True)
class Shape:
    """Size of one backbone.

    Attributes:
        width: of a state as it comes.
        depth: number of layers.
        widths: of the states after layers 0 to depth, where some are narrower (Swin, ConvNeXt) and zeros follow;
            None: all are ``width`` wide.
    """

    width: int
    depth: int
    widths: tuple[int, ...] | None = None

    def width_of(self, layer: int) -> int:
        """Of the state after ``layer``, without the zeros."""
        return self.width if self.widths is None or layer == OUTPUT else self.widths[layer]


@dataclass
class Adaptation:
    """What a method did to one encoder.

    Attributes:
        parameters: what trains, by learning rate.
        modules: how many modules were adapted; 0 fails the cell's gate.
        save: writes what was trained into a folder in a format of its own; None: the harness's
        (``bench.cell.saved_weights``).
    """

    parameters: Iterable[nn.Parameter]
    lr: float
    modules: int
    save: Saver | None = None


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate."""

    name: str
    lr: float
    parameters: tuple[nn.Parameter, ...]

    @property
    def count(self) -> int:
        """Number of trained values."""
        return sum(p.numel() for p in self.parameters)


@dataclass(frozen=True)
class Step:
    """An optimizer step that has just been done.

    Attributes:
        number: in training, from 1; 0 of a step that is no part of it (a gate, a probe, warm-up).
        of: steps of the whole training; 0 where that is not known.
        updated: whether weights moved. A loss scaler leaves a step out when a gradient is not finite.
    """

    number: int = 0
    of: int = 0
    updated: bool = True


class StepHook(nn.Module, ABC):
    """A part of a method that goes along with training. Put into an encoder as a module, the loop finds it there.

    What it keeps from step to step must be in buffers: they are in checkpoints and on the right device. What it does
    is timed and counted as a part of the step.
    """

    @abstractmethod
    def reset(self) -> None:
        """Forgets every step: gates, probes and warm-up must leave nothing behind."""

    @abstractmethod
    def after(self, step: Step) -> None:
        """Told of a step when weights are updated and gradients (unscaled, clipped) still there."""

    def penalty(self) -> Tensor | None:
        """What is added to the loss that is minimised, though not to the one that is reported; None for nothing."""
        return None


Observed = dict[str, list[float]]
"""What a method tells of itself while it trains: what the values are -> a value in 0 to 1 per block."""


class ItemEncoder(nn.Module):
    """Items in, one vector of width d per item out.

    Attributes:
        groups: trained parameters and their learning rates.
        adapted: modality -> number of adapted modules, for the gate "adapted modules > 0 per encoder".
        savers: modality -> writes what was trained in its encoder, where the method has a format of its own.
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
        """What the method tells of itself; nothing for most."""
        with torch.no_grad():
            return self._observe(self.head)

    def forward(self, inputs: Inputs) -> Tensor:
        """Vectors, (n, d)."""
        return self.head(self.source(inputs))


class Outputs(nn.Module):
    """The pooled last hidden state of each encoder, as modality -> (n, width)."""

    def __init__(self, encoders: Mapping[str, Encoder]):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Runs every encoder on its inputs."""
        return {modality: encoder(inputs) for modality, encoder in self.encoders.items()}


class Head(nn.Module):
    """Vector of each encoder -> linear to d -> GELU, concatenated, linear to d (the paper's baselines)."""

    def __init__(self, widths: Mapping[str, int], d: int):
        super().__init__()
        self.project = nn.ModuleDict({modality: nn.Linear(width, d) for modality, width in widths.items()})
        self.fuse = nn.Linear(d * len(widths), d)

    def forward(self, states: Mapping[str, Tensor]) -> Tensor:
        """modality -> (n, width), or (n, 1, width) as hidden states come; gives (n, d)."""
        parts = [F.gelu(linear(states[m].flatten(1))) for m, linear in self.project.items()]
        return self.fuse(torch.cat(parts, dim=-1))


@dataclass(frozen=True)
class Method(ABC):
    """Options that every method has.

    The default rates of the IISAN paper's methods and of their kin are of the paper's range. Those for the shop are in
    ``bench/presets/default.toml``, from a tuning run: shop 100, four trials per method, three epochs, validation HR@10.

    Attributes:
        lr_head: learning rate of the heads and of the user encoder.
    """

    reads: ClassVar[str]
    lr_head: float = field(default=1e-4, kw_only=True)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.startswith("lr") and not 0 < value < float("inf"):
                raise UserError(f"option {name}: must be above 0 and finite, got {value}")

    def counted(self) -> tuple[str, ...]:
        """What options that are tables hold and counts as a :data:`Count` does, as "option.entry": it is tuned."""
        return ()

    def check_budget(self, steps: int | None) -> str:
        """Why it cannot be trained for so many steps (None: not known beforehand); "" if it can."""
        return ""


@dataclass(frozen=True)
class EncoderMethod(Method):
    """A method that runs the backbones on raw items in every step."""

    reads: ClassVar[str] = "items"

    @abstractmethod
    def adapt(self, encoder: Encoder) -> Adaptation:
        """Changes one encoder in place. All its weights arrive frozen; what is returned will train."""

    def build(self, encoders: Mapping[str, Encoder], d: int) -> ItemEncoder:
        """The item encoder: adapted encoders and the standard head.

        Raises:
            UserError: the method does not fit an encoder, or trains what is quantised in it.
        """
        groups, adapted, savers = [], {}, {}
        for modality, encoder in encoders.items():
            encoder.requires_grad_(False)
            done = self.adapt(encoder)
            parameters = tuple(done.parameters)
            check_adapted(encoder, parameters)
            for parameter in parameters:
                parameter.requires_grad_(True)
            groups.append(Group(modality, done.lr, parameters))
            adapted[modality] = done.modules
            if done.save is not None:
                savers[modality] = done.save
        head = Head({modality: encoder.width for modality, encoder in encoders.items()}, d)
        groups.append(Group("head", self.lr_head, tuple(head.parameters())))
        return ItemEncoder(Outputs(encoders), head, groups, adapted, savers)


@dataclass(frozen=True)
class HiddenMethod(Method):
    """A method that reads the pooled hidden states of frozen backbones and nothing else.

    Attributes:
        cached: serve the states from the cache; the backbones are not loaded then.
    """

    reads: ClassVar[str] = "hidden"
    cached: bool = field(default=False, kw_only=True)

    @abstractmethod
    def kept(self, shape: Shape) -> tuple[int, ...]:
        """The layers whose state is needed: 0 is the embedding layer, OUTPUT the encoder's own output."""

    def kept_of(self, shapes: Mapping[str, Shape]) -> dict[str, tuple[int, ...]]:
        """The same by modality, for methods that need the encoders to agree."""
        return {modality: self.kept(shape) for modality, shape in shapes.items()}

    @abstractmethod
    def network(self, shapes: Mapping[str, Shape], d: int) -> nn.Module:
        """Maps modality -> (n, kept layers, width) to (n, d)."""

    @abstractmethod
    def split(self, network: nn.Module) -> tuple[Group, ...]:
        """The learning-rate groups of the network."""

    def observe(self, network: nn.Module) -> Observed:
        """What is worth seeing of the network as it trains: kept with every evaluation, drawn by reports."""
        return {}

    def build(self, source: nn.Module, shapes: Mapping[str, Shape], d: int) -> ItemEncoder:
        """The item encoder over live or cached hidden states."""
        network = self.network(shapes, d)
        groups = self.split(network)
        adapted = {m: len(kept) for m, kept in self.kept_of(shapes).items()}
        return ItemEncoder(source, network, groups, adapted, observe=self.observe)


def chosen_layers(layers: Layers, shape: Shape) -> tuple[int, ...]:
    """The layers of a backbone that an option names; 0 is the embedding layer.

    Raises:
        UserError: a layer that the backbone does not have, or none.
    """
    if layers == "last":
        return (shape.depth,)
    if layers == "first-middle-last":
        return tuple(sorted({0, shape.depth // 2, shape.depth}))
    if isinstance(layers, str):
        return tuple(range(0, shape.depth + 1, {"all": 1, "even": 2, "third": 3}[layers]))
    if not layers or not all(0 <= layer <= shape.depth for layer in layers):
        raise UserError(f"option layers: a backbone of {shape.depth} layers has 0 to {shape.depth}, got {list(layers)}")
    return tuple(layers)


def method_class(kind: str) -> type[Method]:
    """The class registered under ``kind``.

    Raises:
        UserError: unknown method, with the nearest known name, or a target that cannot be had or is no method.
    """
    if kind not in known():
        raise UserError(f"unknown method {kind!r}{did_you_mean(kind, known())}")
    entry = known()[kind]
    module, _, name = entry.target.partition(":")
    if not entry.origin:
        found: type[Method] = getattr(importlib.import_module(module), name)
        return found
    return checked_class(f"method {kind} ({entry.origin})", entry.target)


def checked_class(where: str, target: str) -> type[Method]:
    """The class behind ``module:Class`` if it is a whole method; what others wrote is looked at before it runs.

    Raises:
        UserError: what is wrong with it and what to do.
    """
    module, _, name = target.partition(":")
    try:
        cls = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        raise UserError(f"{where}: {module} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, EncoderMethod | HiddenMethod)):
        raise UserError(
            f"{where}: {name} is no class at the top of its file derived from EncoderMethod or HiddenMethod"
        )
    if "__dataclass_fields__" not in vars(cls):
        raise UserError(f"{where}: class {name} has no options of its own yet: put @dataclass(frozen=True) above it")
    if cls.__abstractmethods__:
        raise UserError(f"{where}: class {name} lacks {', '.join(sorted(cls.__abstractmethods__))}")
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
