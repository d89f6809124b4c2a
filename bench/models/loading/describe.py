"""Facts about encoders for messages and reports, found without their weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from bench.models.backbones import Source, load_model
from bench.models.pooling import Choice, choose_pooling
from bench.utils.errors import UserError


def pooling_of(source: Source) -> Choice:
    """Pooling of an encoder, from its structure on the meta device.

    Raises:
        UserError: the encoder does not support the pooling.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return choose_pooling(source, load_model(dataclasses.replace(source, random=True)))
    except UserError:
        raise
    except Exception:  # Python files of a model may not work without values; the encoder is checked when it is loaded
        return Choice(source.pooling, "not known before the encoder is loaded")


def tower(sources: Mapping[str, Source], modality: str) -> str:
    """Encoder of a modality in words: its name, pooling and why."""
    source, choice = sources[modality], pooling_of(sources[modality])
    return f"{modality} encoder {source.name} (pooling {choice.pooling}: {choice.why})"


def describe_all(sources: Mapping[str, Source], *, lower_case: bool = False) -> list[dict[str, str]]:
    """Facts for ``dataset.json``: per encoder its name, the pooling and why it was taken, and what items go through.

    Args:
        lower_case: titles are lower-cased whatever the folders say.

    Raises:
        UserError: an encoder does not support the requested pooling.
    """
    return [_describe(source, lower_case) for source in sources.values()]


def _describe(source: Source, lower_case: bool) -> dict[str, str]:
    choice, pre = pooling_of(source), source.preprocessing
    if source.modality == "image":
        size = pre.image_size
        items = f"resized ({size} × {size}, bilinear)" if pre.framing is None else str(pre.framing)
    else:
        items = "padding masked" if pre.pad_to is None else f"padded to {pre.pad_to} tokens"
        why = "option lower_case" if lower_case else "sentence_bert_config.json"
        items += f"; lower-cased ({why})" if lower_case or pre.lower_case else "; case left to the tokenizer"
    return {
        "modality": source.modality,
        "model": source.name,
        "pooling": choice.pooling,
        "why": choice.why,
        "items": "; ".join((items, *pre.notes)),
    }
