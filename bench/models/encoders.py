"""A transformers model behind one interface: item inputs in, [CLS] vectors out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.models.backbones import Modality, Preprocessing, Source, load_model
from bench.models.structure import layers

# Keys of item inputs: "input_ids", "attention_mask" (n, tokens); "pixels" (n, height, width, 3) uint8.
Inputs = Mapping[str, Tensor]
# Stands for the encoder's own output (for ViT after the final LayerNorm, which no layer's state has seen).
OUTPUT = -1


class Encoder(nn.Module):
    """One backbone.

    Attributes:
        model: the transformers model, changed in place by methods that adapt it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, modality: Modality, width: int, depth: int, preprocessing: Preprocessing):
        super().__init__()
        self.model = model
        self.modality: Modality = modality
        self.width = width
        self.depth = depth
        if modality == "image":
            self.register_buffer("mean", torch.tensor(preprocessing.mean) * 255.0, persistent=False)
            self.register_buffer("std", torch.tensor(preprocessing.std) * 255.0, persistent=False)

    @classmethod
    def from_source(cls, source: Source) -> Encoder:
        """Loads the weights of ``source``."""
        return cls(load_model(source), source.modality, source.width, source.depth, source.preprocessing)

    def output(self, inputs: Inputs) -> Tensor:
        """Last hidden state, (n, tokens, width)."""
        if self.modality == "text":
            out = self.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        else:
            pixels = inputs["pixels"].permute(0, 3, 1, 2)
            out = self.model(pixel_values=(pixels - self.mean[:, None, None]) / self.std[:, None, None])
        return out.last_hidden_state

    def forward(self, inputs: Inputs) -> Tensor:
        """[CLS] of the last hidden state, (n, width)."""
        return self.output(inputs)[:, 0]

    def hidden_states(self, inputs: Inputs, kept: tuple[int, ...]) -> Tensor:
        """[CLS] after each kept layer, (n, len(kept), width).

        Layer 0 is the embedding layer, layer l the l-th transformer layer, OUTPUT the encoder's own output. Only
        [CLS] is kept of each layer, so the memory of one layer's tokens is free again when the next one runs.
        """
        states: dict[int, Tensor] = {}
        stack = layers(self.model)

        def keep_input(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            states[0] = (args[0] if args else kwargs["hidden_states"])[:, 0].clone()

        def keep_output(layer: int):  # type: ignore[no-untyped-def]
            def hook(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
                states[layer] = (output if isinstance(output, Tensor) else output[0])[:, 0].clone()

            return hook

        handles = [stack[0].register_forward_pre_hook(keep_input, with_kwargs=True)] if 0 in kept else []
        handles += [stack[layer - 1].register_forward_hook(keep_output(layer)) for layer in kept if layer > 0]
        try:
            states[OUTPUT] = self(inputs).clone()
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack([states[layer] for layer in kept], dim=1)
