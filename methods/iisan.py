"""IISAN: decoupled intra- and inter-modal side adapted networks (Fu et al., SIGIR 2024, arXiv 2404.02059).

Encoders of unequal size go as in IISAN-Versa (arXiv 2411.02992): the deeper one's layers are grouped until both have
the same number of blocks, and linear maps bring the states to one width where a network needs it. A pair of equals is
the paper's network, with nothing added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.utils.errors import UserError
from methods.base import Count, Group, HiddenMethod, Layers, Observed, Shape, chosen_layers

GATE_TEMPERATURE = 0.1
INIT_STD = 0.01
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class SANB(nn.Module):
    """Side adapted network block: x + up(act(down(x))), with the gate of what enters it."""

    def __init__(self, width: int, bottleneck: int, activation: str, gated: bool):
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.activation = ACTIVATIONS[activation]
        self.theta = nn.Parameter(torch.zeros(1)) if gated else None
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=INIT_STD)
            nn.init.zeros_(linear.bias)

    def gate(self) -> Tensor | None:
        """g = sigmoid(theta / 0.1); None when not gated."""
        return None if self.theta is None else torch.sigmoid(self.theta / GATE_TEMPERATURE)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) to (n, width)."""
        return x + self.up(self.activation(self.down(x)))


class Alignment(nn.Module):
    """Brings the states of layers to one width: a linear map for each other width, none where there is none.

    Args:
        widths: of each kept layer's state.
        width: that all get.
    """

    def __init__(self, widths: tuple[int, ...], width: int):
        super().__init__()
        self.widths, self.width = widths, width
        self.maps = nn.ModuleDict({str(w): nn.Linear(w, width) for w in sorted(set(widths)) if w != width})

    def forward(self, states: Tensor) -> Tensor:
        """States (n, layers, widest), narrower ones followed by zeros, to (n, layers, width)."""
        if not self.maps:
            return states[:, :, : self.width]
        rows = [states[:, layer, :width] for layer, width in enumerate(self.widths)]
        names = map(str, self.widths)
        rows = [self.maps[name](row) if name in self.maps else row for name, row in zip(names, rows, strict=True)]
        return torch.stack(rows, dim=1)


class SideNetwork(nn.Module):
    """A stack of blocks, then width -> width and width -> d."""

    def __init__(self, n_blocks: int, width: int, d: int, options: IISAN, gated: bool):
        super().__init__()
        self.blocks = nn.ModuleList(
            [SANB(width, options.bottleneck, options.activation, gated) for _ in range(n_blocks)]
        )
        self.out = nn.Linear(width, width)
        self.project = nn.Linear(width, d)

    def gates(self) -> list[float]:
        """g of every block, from the first one on; empty without gates."""
        gates = [block.gate() for block in self.blocks]  # type: ignore[operator]
        return [g.item() for g in gates if g is not None]

    def finish(self, h: Tensor) -> Tensor:
        """The side network's own vector, (n, d)."""
        return self.project(self.out(h))


class IntraNetwork(SideNetwork):
    """h <- SANB(g H_l + (1 - g) h), h starting at zero."""

    def __init__(self, widths: tuple[int, ...], d: int, options: IISAN):
        width = options.width or max(widths)
        super().__init__(len(widths), width, d, options, options.gated)
        self.align = Alignment(widths, width)

    def forward(self, states: Tensor) -> Tensor:
        """States (n, layers, width) to (n, d)."""
        states = self.align(states)
        h = torch.zeros_like(states[:, 0])
        for layer, block in enumerate(self.blocks):
            g = block.gate()  # type: ignore[operator]
            h = block(states[:, layer] + h if g is None else g * states[:, layer] + (1 - g) * h)
        return self.finish(h)


class InterNetwork(SideNetwork):
    """h <- SANB(h + g H_l^image + (1 - g) H_l^text), h starting at zero; as wide as the wider encoder.

    Reading one modality alone it has no gates: h <- SANB(h + H_l).
    """

    def __init__(self, widths: Mapping[str, tuple[int, ...]], d: int, options: IISAN):
        width = options.width or max(max(own) for own in widths.values())
        super().__init__(len(widths["text"]), width, d, options, options.gated and options.inter_reads == "both")
        self.reads = ("text", "image") if options.inter_reads == "both" else (options.inter_reads,)
        self.align = nn.ModuleDict({modality: Alignment(widths[modality], width) for modality in self.reads})

    def forward(self, states: Mapping[str, Tensor]) -> Tensor:
        """States (n, layers, width) of both modalities to (n, d)."""
        first, *other = [self.align[modality](states[modality]) for modality in self.reads]
        h = torch.zeros_like(first[:, 0])
        for layer, block in enumerate(self.blocks):
            g = block.gate()  # type: ignore[operator]
            h = block(h + _mixed([first[:, layer], *(image[:, layer] for image in other)], g))
        return self.finish(h)


def _mixed(states: list[Tensor], g: Tensor | None) -> Tensor:
    """The one state, or text and image by their gate; without a gate their sum."""
    if len(states) == 1:
        return states[0]
    text, image = states
    return image + text if g is None else g * image + (1 - g) * text


class Network(nn.Module):
    """The side networks in the order image, text, inter; concatenated, linear to d."""

    def __init__(self, shapes: Mapping[str, Shape], d: int, options: IISAN):
        super().__init__()
        kept = options.kept_of(shapes)
        widths = {m: tuple(shape.width_of(layer) for layer in kept[m]) for m, shape in shapes.items()}
        self.intra = nn.ModuleDict()
        if options.intra:
            for modality in sorted(shapes):
                self.intra[modality] = IntraNetwork(widths[modality], d, options)
        self.inter = None
        if options.inter and len(shapes) > 1:
            self.inter = InterNetwork(widths, d, options)
        self.fuse = nn.Linear(d * (len(self.intra) + (self.inter is not None)), d)

    def forward(self, states: Mapping[str, Tensor]) -> Tensor:
        """modality -> (n, layers, width) to (n, d)."""
        parts = [network(states[modality]) for modality, network in self.intra.items()]
        if self.inter is not None:
            parts.append(self.inter(states))
        return self.fuse(torch.cat(parts, dim=-1))


def grouped(layers: tuple[int, ...], n: int) -> tuple[int, ...]:
    """The last layer of each of ``n`` groups, as even as can be; the first layer is a group of its own."""
    if n == 1:
        return layers[-1:]
    last = len(layers) - 1
    return tuple(layers[(2 * group * last + n - 1) // (2 * (n - 1))] for group in range(n))


@dataclass(frozen=True)
class IISAN(HiddenMethod):
    """Options of IISAN.

    Attributes:
        layers: which layers have blocks: "all", "even" (every second one, the paper's LayerDrop), "third",
            "first-middle-last", "last", or a list.
        bottleneck: inner width of a block.
        width: of the side networks; None: that of the encoder, of the wider one for the inter-modal network.
        activation: relu (the released code) or gelu.
        intra, inter: with the intra-modal networks, with the inter-modal one.
        inter_reads: what the inter-modal network gets; one modality alone takes its gates away.
        gated: learned gates; otherwise plain sums.
        lr: of blocks, gates and the networks' own ends; ``lr_head`` is for the last map.
    """

    layers: Layers = "even"
    bottleneck: Count = 64
    width: Count | None = None
    activation: Literal["relu", "gelu"] = "relu"
    intra: bool = True
    inter: bool = True
    inter_reads: Literal["both", "text", "image"] = "both"
    gated: bool = True
    lr: float = 2e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.intra or self.inter):
            raise UserError("iisan: intra and inter are both false, nothing would be left")
        if not self.inter and self.inter_reads != "both":
            raise UserError(f"option inter_reads: {self.inter_reads} needs the inter-modal network, and inter is false")

    def kept(self, shape: Shape) -> tuple[int, ...]:
        """Layer 0 is the embedding layer."""
        return chosen_layers(self.layers, shape)

    def kept_of(self, shapes: Mapping[str, Shape]) -> dict[str, tuple[int, ...]]:
        """With the inter-modal network as many layers of each encoder as the shallower one keeps."""
        own = super().kept_of(shapes)
        n = min(map(len, own.values()))
        return {m: grouped(layers, n) for m, layers in own.items()} if self.inter else own

    def network(self, shapes: Mapping[str, Shape], d: int) -> nn.Module:
        """Intra-modal networks per modality and, with two of them, the inter-modal one."""
        if not self.intra and len(shapes) < 2:
            raise UserError("iisan: intra = false leaves nothing with one modality; --methods names the others")
        return Network(shapes, d, self)

    def split(self, network: nn.Module) -> tuple[Group, ...]:
        """Side networks, and the last map with the head's learning rate."""
        assert isinstance(network, Network)
        last = set(network.fuse.parameters())
        return (
            Group("side", self.lr, tuple(p for p in network.parameters() if p not in last)),
            Group("head", self.lr_head, tuple(network.fuse.parameters())),
        )

    def observe(self, network: nn.Module) -> Observed:
        """The gates, named by what 1 and 0 mean."""
        assert isinstance(network, Network)
        gates = {
            f"{modality}: layer (1) or earlier (0)": side.gates()  # type: ignore[operator]
            for modality, side in network.intra.items()
        }
        if network.inter is not None:
            gates["inter-modal: image (1) or text (0)"] = network.inter.gates()
        return {name: values for name, values in gates.items() if values}
