"""Reasons why a model of transformers cannot be an encoder of this suite, in words that are true of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

BATCH_NORM = (
    "it has batch normalisation, so that in training the vector of an item would depend on the other items of its batch"
)
TIMM = (
    "a model of the library timm is not supported: its configuration gives no number and width of layers; "
    "choose an encoder with a model class of transformers, such as vit, swin or convnext"
)
_TIMM_TYPES = ("timm_wrapper", "timm_backbone")


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
