"""The part of a matrix that says which pair of encoders a cell runs on."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

Modality = Literal["text", "image"]
Quantisation = Literal["bnb-nf4", "torchao-int8"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Backbones:
    """A pair of encoders: built-in name, folder or hub id each.

    Attributes:
        text_pooling, image_pooling: how an item's tokens become one vector; "auto" is what suits the family.
        trust_remote_code: let transformers run the Python files that come with a model.
        quantise: the linear maps of both encoders' layers in 4 or 8 bit (``bench.models.quantisation``).
    """

    text: str = "shop-partial"
    image: str = "shop-partial"
    weights: Literal["pretrained", "random"] = "pretrained"
    text_pooling: Literal["auto", "cls", "mean", "last-token"] = "auto"
    image_pooling: Literal["auto", "cls", "mean"] = "auto"
    trust_remote_code: bool = False
    quantise: Quantisation | None = None


PRETRAINED = ("shop-partial", "shop-full")
# Known by configuration alone: transformers' defaults for these classes are the base models of the papers.
CONFIGURATIONS: dict[str, tuple[tuple[Modality, ...], str]] = {
    "bert-base": (("text",), "bert"),
    "vit-base": (("image",), "vit"),
    "clip-base": (("text", "image"), "clip"),
}
