"""Checks of a model's name, folder, configuration and family before a library loads it.

``from_pretrained`` acts on files and settings unasked: it loads an adapter that lies beside the weights, prefers shards
of a distributed checkpoint to ``model.safetensors``, and turns on gradient checkpointing or an attention implementation
that ``config.json`` names. Each of these changes what is trained or measured, and none is visible in a report. They are
refused here, or set to the choice of the suite.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from bench.utils.errors import UserError

if TYPE_CHECKING:
    from torch import nn

_HUB_ID = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)?[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_LONGEST_ID = 96
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.pkl")
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
BATCH_NORM = (
    "it has batch normalisation, so that in training the vector of an item would depend on the other items of its batch"
)
TIMM = (
    "a model of the library timm is not supported: its configuration gives no number and width of layers; "
    "choose an encoder with a model class of transformers, such as vit, swin or convnext"
)
_TIMM_TYPES = ("timm_wrapper", "timm_backbone")


def check_location(location: str, option: str) -> None:
    """Check that a location is a folder with a config.json, or could be the id of a model on a hub.

    Raises:
        UserError: the location is neither; the message names the option.
    """
    # os.path and not Path, which raises an error for names that are too long or contain a NUL.
    if os.path.isdir(location):
        if not os.path.isfile(os.path.join(location, "config.json")):
            if os.path.isfile(os.path.join(location, ADAPTER)):
                raise UserError(f"{option}: {location} holds an adapter and no model; merge it into its base model")
            inner = [path.parent.name for path in sorted(Path(location).glob("0_*/config.json"))]
            hint = f"; its encoder is in {inner[0]}: name that folder" if inner else ""
            raise UserError(f"{option}: {location} has no config.json{hint}")
    elif os.path.exists(location):
        raise UserError(f"{option}: is a file; name the folder that holds config.json and the weights")
    elif len(location) > _LONGEST_ID or not _HUB_ID.fullmatch(location):
        raise UserError(f"{option}: no such folder, and not a valid id of a model on the hub")


def check_weights(location: str, option: str) -> None:
    """Refuse a folder without safetensors weights that can be read: unpickling the other formats can run any code.

    torch's ``weights_only`` loads some pickles, by rules that change between its versions; converting once is safer.

    Raises:
        UserError: the folder has no such file, or a damaged one; the message names the option.
    """
    folder = Path(location)
    if not folder.is_dir():
        return
    for name in _weight_files(folder, option):
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(f"{option}: {name} cannot be read as safetensors: {error}") from error


def _weight_files(folder: Path, option: str) -> list[str]:
    """Names of the files that transformers loads weights from."""
    if (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        raise UserError(f"{option}: {folder} has both {WEIGHTS} and {INDEX}; remove the one that is out of date")
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            return sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{option}: {INDEX} is not a valid index of weights ({type(error).__name__})") from error
    if others := sorted(path.name for path in folder.glob("*.safetensors")):
        raise UserError(f"{option}: no {WEIGHTS} in {folder}, only {others[0]}; rename the file that holds the weights")
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise UserError(
            f"{option}: the weights are pickled ({pickled[0]}), and pickles are never loaded; if you trust the file, "
            "convert it to safetensors once, with from_pretrained() and save_pretrained() of transformers"
        )
    raise UserError(f"{option}: no weights (*.safetensors) in {folder}; --weights random needs none")


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


def is_timm(config: Any) -> bool:
    """True if transformers only wraps a model of timm."""
    return config.model_type in _TIMM_TYPES


def why_no_image_encoder(config: Any) -> str:
    """Reason why a model without ``image_size`` in its configuration cannot encode images."""
    kind = config.model_type
    if not _takes_pixels(config):
        return f"{kind} is not an image encoder"
    return f"{kind} is not supported: {_why(config) or 'its configuration has no image_size'}"


def why_no_layers(error: Exception) -> str:
    """Reason behind an attribute that a configuration lacks (number of layers, width); "" for other errors."""
    from transformers import PreTrainedConfig

    if not isinstance(error, AttributeError) or not isinstance(error.obj, PreTrainedConfig):
        return ""
    kind = error.obj.model_type
    return f"{kind} is not supported: {_why(error.obj) or f'its configuration has no {error.name}'}"


def has_batch_norm(model: nn.Module) -> bool:
    """True if a module normalises over the items of a batch."""
    return any("BatchNorm" in type(module).__name__ for module in model.modules())


def _takes_pixels(config: Any) -> bool:
    from transformers import MODEL_MAPPING

    try:
        cls = MODEL_MAPPING[type(config)]
        return getattr(cls, "main_input_name", "") == "pixel_values"
    except (KeyError, ImportError):
        return False


def _why(config: Any) -> str:
    """Reason that shows in the modules of the model; "" if there is none, or if it cannot be built."""
    import torch
    from transformers import AutoModel

    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return BATCH_NORM if has_batch_norm(AutoModel.from_config(config)) else ""
    except Exception:  # any error of a class that is not supported anyway
        return ""
