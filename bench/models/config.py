"""Matrix section ``[[backbones]]``: the pair of encoders that a cell runs on, and the names that are built in."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, field_validator
from pydantic.dataclasses import dataclass

Modality = Literal["text", "image"]
Quantisation = Literal["bnb-nf4", "torchao-int8"]

# Pretrained pair -> folder in ``builtin`` per modality. The attribute that is absent from the mixed pair is the purpose
# and not the pattern, because titles show the purpose by a word, which a few steps of training suffice to learn.
PRETRAINED: dict[str, dict[Modality, str]] = {
    "shop-full": {"text": "text-full", "image": "image-full"},
    "shop-buried": {"text": "text-buried", "image": "image-buried"},
    "shop-absent": {"text": "text-absent", "image": "image-absent"},
    "shop-mixed": {"text": "text-absent", "image": "image-buried"},
}
# Earlier name -> present name; both are accepted, and the present one is recorded.
RENAMED = {"shop-partial": "shop-absent"}
# Name -> modalities and model type, without weights: the default configurations of transformers are the base models
# of the papers.
CONFIGURATIONS: dict[str, tuple[tuple[Modality, ...], str]] = {
    "bert-base": (("text",), "bert"),
    "vit-base": (("image",), "vit"),
    "clip-base": (("text", "image"), "clip"),
}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Backbones:
    """A text and an image encoder, each given as a built-in name, a folder or a hub id.

    Attributes:
        text_pooling, image_pooling: how the token states of an item become one vector; "auto" chooses by model family.
        trust_remote_code: True if transformers may run the Python files that come with a model.
        quantise: format of the linear maps in both encoders' layers, 4 or 8 bit (``bench.models.quantisation``); None
            for 32 bit.
    """

    text: str = "shop-mixed"
    image: str = "shop-mixed"
    weights: Literal["pretrained", "random"] = "pretrained"
    text_pooling: Literal["auto", "cls", "mean", "last-token"] = "auto"
    image_pooling: Literal["auto", "cls", "mean"] = "auto"
    trust_remote_code: bool = False
    quantise: Quantisation | None = None

    @field_validator("text", "image")
    @classmethod
    def _present_name(cls, name: str) -> str:
        return RENAMED.get(name, name)
