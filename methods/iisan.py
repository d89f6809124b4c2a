"""IISAN: decoupled intra- and inter-modal side adapted networks (Fu et al., SIGIR 2024, arXiv 2404.02059)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UserError
from methods.base import Group, HiddenMethod, Shape

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


class SideNetwork(nn.Module):
    """A stack of blocks, then width -> width and width -> d."""

    def __init__(self, n_blocks: int, width: int, d: int, options: IISAN):
        super().__init__()
        self.blocks = nn.ModuleList(
            [SANB(width, options.bottleneck, options.activation, options.gated) for _ in range(n_blocks)]
        )
        self.out = nn.Linear(width, width)
        self.project = nn.Linear(width, d)

    def finish(self, h: Tensor) -> Tensor:
        """The side network's own vector, (n, d)."""
        return self.project(self.out(h))


class IntraNetwork(SideNetwork):
    """h <- SANB(g H_l + (1 - g) h), h starting at zero."""

    def forward(self, states: Tensor) -> Tensor:
        """States (n, layers, width) to (n, d)."""
        h = torch.zeros_like(states[:, 0])
        for layer, block in enumerate(self.blocks):
            g = block.gate()  # type: ignore[operator]
            h = block(states[:, layer] + h if g is None else g * states[:, layer] + (1 - g) * h)
        return self.finish(h)


class InterNetwork(SideNetwork):
    """h <- SANB(h + g H_l^image + (1 - g) H_l^text), h starting at zero."""

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """States (n, layers, width) of both modalities to (n, d)."""
        h = torch.zeros_like(text[:, 0])
        for layer, block in enumerate(self.blocks):
            g = block.gate()  # type: ignore[operator]
            mixed = image[:, layer] + text[:, layer] if g is None else g * image[:, layer] + (1 - g) * text[:, layer]
            h = block(h + mixed)
        return self.finish(h)


class Network(nn.Module):
    """The side networks in the order image, text, inter; concatenated, linear to d."""

    def __init__(self, shapes: Mapping[str, Shape], d: int, options: IISAN):
        super().__init__()
        self.intra = nn.ModuleDict()
        if options.intra:
            for modality in sorted(shapes):
                shape = shapes[modality]
                self.intra[modality] = IntraNetwork(len(options.kept(shape)), shape.width, d, options)
        self.inter = None
        if options.inter and len(shapes) > 1:
            text, image = shapes["text"], shapes["image"]
            self.inter = InterNetwork(len(options.kept(text)), _common_width(text, image, options), d, options)
        self.fuse = nn.Linear(d * (len(self.intra) + (self.inter is not None)), d)

    def forward(self, states: Mapping[str, Tensor]) -> Tensor:
        """modality -> (n, layers, width) to (n, d)."""
        parts = [network(states[modality]) for modality, network in self.intra.items()]
        if self.inter is not None:
            parts.append(self.inter(states["text"], states["image"]))
        return self.fuse(torch.cat(parts, dim=-1))


def _common_width(text: Shape, image: Shape, options: IISAN) -> int:
    if text.width != image.width or len(options.kept(text)) != len(options.kept(image)):
        raise UserError(
            "iisan: the inter-modal network needs encoders of one width and number of kept layers, got text "
            f"{text.width} wide with {len(options.kept(text))} and image {image.width} wide with "
            f"{len(options.kept(image))}; set inter = false"
        )
    return text.width


@dataclass(frozen=True)
class IISAN(HiddenMethod):
    """Options of IISAN.

    Attributes:
        layers: which layers have blocks: "all", "even" (every second one, the paper's LayerDrop), or a list.
        bottleneck: inner width of a block.
        activation: relu (the released code) or gelu.
        intra, inter: with the intra-modal networks, with the inter-modal one.
        gated: learned gates; otherwise plain sums.
        lr: of blocks, gates and the networks' own ends; ``lr_head`` is for the last map.
    """

    layers: Literal["all", "even"] | tuple[int, ...] = "even"
    bottleneck: int = 64
    activation: Literal["relu", "gelu"] = "relu"
    intra: bool = True
    inter: bool = True
    gated: bool = True
    lr: float = 2e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.intra or self.inter):
            raise UserError("iisan: intra and inter are both false, nothing would be left")
        if self.bottleneck < 1:
            raise UserError(f"iisan: bottleneck must be at least 1, got {self.bottleneck}")

    def kept(self, shape: Shape) -> tuple[int, ...]:
        """Layer 0 is the embedding layer."""
        if isinstance(self.layers, str):
            return tuple(range(0, shape.depth + 1, 1 if self.layers == "all" else 2))
        beyond = [layer for layer in self.layers if not 0 <= layer <= shape.depth]
        if beyond or not self.layers:
            raise UserError(
                f"iisan: layers {list(self.layers)}: a backbone of {shape.depth} layers has only those from 0"
            )
        return tuple(self.layers)

    def network(self, shapes: Mapping[str, Shape], d: int) -> nn.Module:
        """Intra-modal networks per modality and, with two of them, the inter-modal one."""
        if not self.intra and len(shapes) < 2:
            raise UserError("iisan: intra = false leaves nothing with one modality")
        return Network(shapes, d, self)

    def split(self, network: nn.Module) -> tuple[Group, ...]:
        """Side networks, and the last map with the head's learning rate."""
        assert isinstance(network, Network)
        last = set(network.fuse.parameters())
        return (
            Group("side", self.lr, tuple(p for p in network.parameters() if p not in last)),
            Group("head", self.lr_head, tuple(network.fuse.parameters())),
        )
