"""Content of a model's folder that transformers acts on unasked: refused, or set to the choice of the suite.

``from_pretrained`` loads an adapter that lies beside the weights, prefers shards of a distributed checkpoint to
``model.safetensors``, and turns on gradient checkpointing or an attention implementation that ``config.json`` names.
Each of these changes what is trained or measured, and none of them is visible in a report.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from bench.utils.errors import UserError

ADAPTER = "adapter_config.json"
MERGE = "merge it into the weights once, with merge_and_unload() of peft and save_pretrained(), or remove it"
# Name of a file with the weights of one rank, which transformers would load instead of model.safetensors.
_SHARD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors", re.ASCII)
# Keys of config.json that change how or from where weights are loaded, with the reason for the refusal.
_REFUSED = {
    "quantization_config": "the weights are quantised; name a folder with plain weights, and use --quantise",
    "transformers_weights": "it names another file of weights; rename that file to model.safetensors",
    "fusion_config": "it replaces modules of the model when weights are loaded",
}
# Attributes that do not change the values that a model computes, with the value that the suite measures.
_CHOSEN = {
    "_attn_implementation": None,  # the default of the family; `Encoder.use_attention` sets the attention of a run
    "_experts_implementation": None,
    "return_dict": True,
    "output_attentions": False,
    "output_hidden_states": False,
    "chunk_size_feed_forward": 0,
}


def check_files(location: str, option: str) -> None:
    """Refuse a folder or hub id with an adapter, and a folder with shards of a distributed checkpoint.

    Raises:
        UserError: the message names the option and the file.
    """
    if os.path.isdir(location):
        names = os.listdir(location)
        if shards := sorted(name for name in names if _SHARD.fullmatch(name)):
            raise UserError(
                f"{option}: {shards[0]} is part of a distributed checkpoint, which would be loaded instead of "
                "model.safetensors; save the model once with save_pretrained() of transformers"
            )
        there = ADAPTER in names
    else:
        there = _on_hub(location)
    if there:
        raise UserError(f"{option}: an adapter lies beside the weights ({ADAPTER}) and would be loaded unseen; {MERGE}")


def _on_hub(location: str) -> bool:
    """True if a model on the hub has an adapter beside its weights."""
    from transformers.utils.peft_utils import find_adapter_config_file

    find: Callable[[str], str | None] = find_adapter_config_file
    try:
        return find(location) is not None
    except (OSError, ValueError):  # the hub cannot be reached; then the weights cannot be loaded either
        return False


def settle(config: Any, option: str) -> None:
    """Set a configuration, and those of its towers, to the choices of the suite.

    Raises:
        UserError: the configuration asks for a way of loading that is not supported; the message names the key.
    """
    for part in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))):
        if part is None:
            continue
        for key, reason in _REFUSED.items():
            if getattr(part, key, None):
                raise UserError(f"{option}: {key} in config.json: {reason}")
        for name, value in _CHOSEN.items():
            if getattr(part, name, value) != value:
                setattr(part, name, value)
        if getattr(part, "gradient_checkpointing", False):
            part.gradient_checkpointing = False  # an option of the run
