"""IISAN: decoupled intra- and inter-modal side adapted networks (Fu et al., SIGIR 2024, arXiv 2404.02059).

Encoders of unequal size are combined as in IISAN-Versa (arXiv 2411.02992): the layers of the deeper one are grouped
until both have the same number of blocks, and linear maps bring states to a common width. For encoders of equal size
the network is that of the IISAN paper, without additions.
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
    """Side adapted network block (SANB), x + up(act(down(x))), and the gate that mixes its input."""

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
        """Gate g = sigmoid(theta / 0.1), shape (1,); None without a gate."""
        return None if self.theta is None else torch.sigmoid(self.theta / GATE_TEMPERATURE)

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block, (n, width), for an input of the same shape."""
        return x + self.up(self.activation(self.down(x)))


class Alignment(nn.Module):
    """Linear maps that bring the states of all layers to one width; states that have it already pass unchanged.

    Args:
        widths: width of each kept layer's state.
        width: common width.
    """

    def __init__(self, widths: tuple[int, ...], width: int):
        super().__init__()
        self.widths, self.width = widths, width
        self.maps = nn.ModuleDict({str(w): nn.Linear(w, width) for w in sorted(set(widths)) if w != width})

    def forward(self, states: Tensor) -> Tensor:
        """Aligned states, (n, layers, width), from states (n, layers, widest) in which zeros pad the narrower ones."""
        if not self.maps:
            return states[:, :, : self.width]
        rows = [states[:, layer, :width] for layer, width in enumerate(self.widths)]
        names = map(str, self.widths)
        rows = [self.maps[name](row) if name in self.maps else row for name, row in zip(names, rows, strict=True)]
        return torch.stack(rows, dim=1)


class SideNetwork(nn.Module):
    """Side network: a stack of blocks, then linear maps width -> width and width -> d."""

    def __init__(self, n_blocks: int, width: int, d: int, options: IISAN, gated: bool):
        super().__init__()
        self.blocks = nn.ModuleList(
            [SANB(width, options.bottleneck, options.activation, gated) for _ in range(n_blocks)]
        )
        self.out = nn.Linear(width, width)
        self.project = nn.Linear(width, d)

    def gates(self) -> list[float]:
        """Gate of every block, first block first; empty without gates."""
        gates = [block.gate() for block in self.blocks]  # type: ignore[operator]
        return [g.item() for g in gates if g is not None]

    def finish(self, h: Tensor) -> Tensor:
        """Vector of the side network, (n, d), from the last block's output, (n, width)."""
        return self.project(self.out(h))


class IntraNetwork(SideNetwork):
    """Intra-modal network: h <- SANB(g H_l + (1 - g) h) per layer, starting from h = 0."""

    def __init__(self, widths: tuple[int, ...], d: int, options: IISAN):
        width = options.width or max(widths)
        super().__init__(len(widths), width, d, options, options.gated)
        self.align = Alignment(widths, width)

    def forward(self, states: Tensor) -> Tensor:
        """Vector of one modality, (n, d), from its states, (n, layers, width)."""
        states = self.align(states)
        h = torch.zeros_like(states[:, 0])
        for layer, block in enumerate(self.blocks):
            g = block.gate()  # type: ignore[operator]
            h = block(states[:, layer] + h if g is None else g * states[:, layer] + (1 - g) * h)
        return self.finish(h)


class InterNetwork(SideNetwork):
    """Inter-modal network: h <- SANB(h + g H_l^image + (1 - g) H_l^text) per layer, starting from h = 0.

    It is as wide as the wider encoder. If it reads one modality only it has no gates: h <- SANB(h + H_l).
    """

    def __init__(self, widths: Mapping[str, tuple[int, ...]], d: int, options: IISAN):
        width = options.width or max(map(max, widths.values()))
        super().__init__(len(widths["text"]), width, d, options, options.gated and options.inter_reads == "both")
        self.reads = ("text", "image") if options.inter_reads == "both" else (options.inter_reads,)
        self.align = nn.ModuleDict({modality: Alignment(widths[modality], width) for modality in self.reads})

    def forward(self, states: Mapping[str, Tensor]) -> Tensor:
        """Inter-modal vector, (n, d), from the states of both modalities, each (n, layers, width)."""
        first, *others = [self.align[modality](states[modality]) for modality in self.reads]
        h = torch.zeros_like(first[:, 0])
        for layer, block in enumerate(self.blocks):
            g = block.gate()  # type: ignore[operator]
            h = block(h + _mixed([first[:, layer], *(image[:, layer] for image in others)], g))
        return self.finish(h)


def _mixed(states: list[Tensor], g: Tensor | None) -> Tensor:
    """Gated mixture of the states of text and image, their sum without a gate, or a single state unchanged."""
    if len(states) == 1:
        return states[0]
    text, image = states
    return image + text if g is None else g * image + (1 - g) * text


class Network(nn.Module):
    """All side networks, in the order image, text, inter; their vectors are concatenated and mapped to d."""

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
        """Item vectors, (n, d), from states by modality, each (n, layers, width)."""
        vectors = [network(states[modality]) for modality, network in self.intra.items()]
        if self.inter is not None:
            vectors.append(self.inter(states))
        return self.fuse(torch.cat(vectors, dim=-1))


def grouped(layers: tuple[int, ...], n: int) -> tuple[int, ...]:
    """Last layer of each of ``n`` groups of layers, as even as possible; the first layer is a group of its own."""
    if n == 1:
        return layers[-1:]
    last = len(layers) - 1
    return tuple(layers[(2 * group * last + n - 1) // (2 * (n - 1))] for group in range(n))


@dataclass(frozen=True)
class IISAN(HiddenMethod):
    """IISAN: side networks on the hidden states of frozen encoders.

    Attributes:
        layers: layers with a block: "all", "even" (every second one, the paper's LayerDrop), "third",
            "first-middle-last", "last", or a list of numbers.
        bottleneck: inner width of a block.
        width: width of the side networks; None for that of the encoder, and of the wider one for the inter-modal
            network.
        activation: "relu" (as in the released code) or "gelu".
        intra, inter: False leaves out the intra-modal networks or the inter-modal one.
        inter_reads: modalities that the inter-modal network reads; with a single one it has no gates.
        gated: True for learned gates, False for sums without weights.
        lr: learning rate of the side networks; ``lr_head`` is that of the last map.
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
            raise UserError("iisan: intra and inter are both false; at least one must be true")
        if not self.inter and self.inter_reads != "both":
            raise UserError(f"option inter_reads: {self.inter_reads} needs the inter-modal network, but inter is false")

    def kept(self, shape: Shape) -> tuple[int, ...]:
        """Layers that the option ``layers`` selects; 0 is the embedding layer."""
        return chosen_layers(self.layers, shape)

    def kept_of(self, shapes: Mapping[str, Shape]) -> dict[str, tuple[int, ...]]:
        """Layers by modality; with the inter-modal network as many for each encoder as the shallower one keeps."""
        kept = super().kept_of(shapes)
        n = min(map(len, kept.values()))
        return {m: grouped(layers, n) for m, layers in kept.items()} if self.inter else kept

    def network(self, shapes: Mapping[str, Shape], d: int) -> nn.Module:
        """Intra-modal network of each modality and, with two modalities, the inter-modal network."""
        if not self.intra and len(shapes) < 2:
            raise UserError(
                "iisan: with one modality intra = false leaves no network; leave the method out (--methods)"
            )
        return Network(shapes, d, self)

    def split(self, network: nn.Module) -> tuple[Group, ...]:
        """Two groups: the side networks, and the last map with the head's learning rate."""
        assert isinstance(network, Network)
        last = set(network.fuse.parameters())
        return (
            Group("side", self.lr, tuple(p for p in network.parameters() if p not in last)),
            Group("head", self.lr_head, tuple(network.fuse.parameters())),
        )

    def observe(self, network: nn.Module) -> Observed:
        """Gates of each network; the name says what 1 and 0 mean."""
        assert isinstance(network, Network)
        gates = {
            f"{modality}: layer (1) or earlier (0)": side.gates()  # type: ignore[operator]
            for modality, side in network.intra.items()
        }
        if network.inter is not None:
            gates["inter-modal: image (1) or text (0)"] = network.inter.gates()
        return {name: values for name, values in gates.items() if values}
