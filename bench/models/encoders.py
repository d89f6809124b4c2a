"""One interface to text and image encoders of transformers: item inputs in, one pooled vector per item out.

:class:`Encoder` also gives the pooled state after every layer. Which token states make the vector of an item (the
pooling) is chosen in ``bench.models.pooling`` and done in :func:`pool`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models import families
from bench.models.backbones import Source, load_model
from bench.models.config import Modality
from bench.models.families import Pooling
from bench.models.pooling import CLASS_TOKENS, choose_pooling
from bench.models.structure import layers
from bench.utils.errors import UserError

# Keys of item inputs: "input_ids", "attention_mask" (n, tokens); "pixels" (n, height, width, 3) uint8.
Inputs = Mapping[str, Tensor]
# Layer number of the encoder's own output, which in ViT has passed the final LayerNorm, unlike any layer's state.
OUTPUT = -1


class Encoder(nn.Module):
    """Text or image backbone: preprocessing on the device, the transformers model, and pooling.

    Attributes:
        model: the transformers model; methods adapt it in place.
        pooling: how token states become one vector, for the output and for every layer's state alike.
        config: configuration of the encoder itself.
        choice: the pooling and why it was taken.
        width: size of an item's vector.
        depth: number of layers.
        widths: size of a token's state after layers 0 to depth.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, source: Source):
        super().__init__()
        self.model = model
        self.modality: Modality = source.modality
        self.width = source.width
        self.depth = source.depth
        self.config = source.config
        self.choice = choose_pooling(source, model)
        self.pooling = self.choice.pooling
        self.widths = source.widths
        self._skip = count_class_tokens(model) if source.modality == "image" else 0
        # The dotted name and not the module, which is registered in the model already.
        self._norm = families.POOLED_NORM.get(source.config.model_type)
        # ViTMAE shuffles patches by this noise even where it hides none; rising noise leaves them in order.
        config = source.config
        masks = config.model_type in families.MASKING
        self._in_order = (config.image_size // config.patch_size) ** 2 if masks else None
        if source.modality == "image":
            self.register_buffer("mean", torch.tensor(source.preprocessing.mean) * 255.0, persistent=False)
            self.register_buffer("std", torch.tensor(source.preprocessing.std) * 255.0, persistent=False)

    @classmethod
    def from_source(cls, source: Source) -> Encoder:
        """Load the model of ``source`` with its weights."""
        return cls(load_model(source), source)

    def use_attention(self, implementation: str) -> None:
        """Switch attention to "sdpa" or "eager"; families with attention code of their own (MPNet, DeBERTa) keep it."""
        model: Any = self.model
        if getattr(model, "_supports_attention_backend", False):
            model.set_attn_implementation(implementation)

    def output(self, inputs: Inputs) -> Tensor:
        """Last hidden state, (n, tokens, width); for ConvNeXt (n, width, rows of patches, columns of patches)."""
        if self.modality == "text":
            out = self.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        else:
            pixels = inputs["pixels"].permute(0, 3, 1, 2)
            more = {}
            if self._in_order is not None:
                more["noise"] = torch.arange(self._in_order, device=pixels.device).float().expand(len(pixels), -1)
            out = self.model(pixel_values=(pixels - self.mean[:, None, None]) / self.std[:, None, None], **more)
        return out.last_hidden_state

    def forward(self, inputs: Inputs) -> Tensor:
        """The pooled last hidden state, (n, width)."""
        vectors = self._pool(self.output(inputs), inputs)
        return vectors if self._norm is None else self.model.get_submodule(self._norm)(vectors)

    def _pool(self, states: Tensor, inputs: Inputs) -> Tensor:
        return pool(states, self.pooling, inputs["attention_mask"] if self.modality == "text" else None, self._skip)

    def hidden_states(self, inputs: Inputs, kept: tuple[int, ...]) -> Tensor:
        """The pooled state after each kept layer, (n, len(kept), width).

        Layer 0 is the embedding layer, layer l the l-th transformer layer, OUTPUT the encoder's own output. Only the
        pooled vector of each layer is stored, so the token states of a layer are freed when the next layer runs.
        States narrower than ``width`` (earlier stages of Swin and ConvNeXt) are padded with zeros.
        """
        states: dict[int, Tensor] = {}
        # Layers that share weights (ALBERT) are one module that runs several times, so count runs, not modules.
        runs = 0
        staged = families.is_hierarchical(self.model.config)

        def keep(state: Tensor) -> None:
            if runs in kept:
                states[runs] = self._at_width(runs, self._pool(state, inputs).clone())

        def before(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            # A layer's input and not the output before it: DeBERTa has a convolution in between. Stages (Swin) are
            # read at their output instead, because the width changes on the way to the next one.
            if runs == 0 or not staged:
                keep(args[0] if args else kwargs["hidden_states"])

        def after(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
            nonlocal runs
            runs += 1
            if staged or runs == self.depth:
                keep(output if isinstance(output, Tensor) else output[0])

        handles = []
        for layer in layers(self.model):
            handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(layer.register_forward_hook(after))
        try:
            states[OUTPUT] = self(inputs).clone()
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack([states[layer] for layer in kept], dim=1)

    def _at_width(self, layer: int, vectors: Tensor) -> Tensor:
        width, expected = vectors.shape[1], self.widths[layer]
        if width != expected:
            name = type(self.model).__name__
            raise UserError(f"{name}: layer {layer} is {width} wide, {expected} by its configuration; not supported")
        return F.pad(vectors, (0, self.width - width)) if width < self.width else vectors


def count_class_tokens(model: nn.Module) -> int:
    """Number of tokens in front of the image patches: class, distillation and register tokens."""
    names = [key.rpartition(".")[2] for key, _ in model.named_parameters()]
    count = sum(name in (*CLASS_TOKENS, "distillation_token") for name in names)
    return count + int(getattr(model.config, "num_register_tokens", 0) or 0)


def pool(states: Tensor, pooling: Pooling, mask: Tensor | None, skip: int) -> Tensor:
    """Reduce the token states of each item to one vector, (n, width).

    Args:
        states: (n, tokens, width), or (n, width, rows, columns) from a convolutional encoder.
        mask: (n, tokens), 1 at real tokens, which are on the left; None for images.
        skip: number of leading tokens that a mean over image patches leaves out.
    """
    if states.ndim == 4:
        states = states.flatten(2).transpose(1, 2)
    if pooling == "cls":
        return states[:, 0]
    if mask is None:
        return states[:, skip:].mean(1)
    if pooling == "last-token":
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    weights = mask.to(states.dtype)[:, :, None]
    return (states * weights).sum(1) / weights.sum(1)


def checkpoint_gradients(model: Any) -> None:
    """Turn on gradient checkpointing: layers are run again in the backward pass instead of storing activations.

    It acts in train mode only and leaves all values the same.

    Raises:
        UserError: the model family does not support it.
    """
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise UserError(f"gradient_checkpointing: {type(model).__name__} does not support it") from error
