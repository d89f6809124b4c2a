"""Checks that every option given has an effect: an option that would be ignored is an error."""

from __future__ import annotations

from collections.abc import Mapping

from bench.config.matrix import Matrix
from bench.config.validation_messages import KeyPath
from bench.data.kinds import GENERATED, KINDS
from bench.models.config import CONFIGURATIONS, PRETRAINED
from bench.utils.errors import UserError

# Key paths within the dataset: options on images, on data in files, and on the generated shop.
_IMAGE_KEYS: tuple[KeyPath, ...] = (("image_dir",), ("missing_images",), ("bad_images",))
_FILE_KEYS: tuple[KeyPath, ...] = (("data_dir",), *_IMAGE_KEYS)
_SHOP_KEYS: tuple[KeyPath, ...] = (("seed",),)


def check_applicable(matrix: Matrix, options: Mapping[KeyPath, str]) -> None:
    """Checks that the resolved matrix uses every option that was given.

    Args:
        options: key path -> command-line option that set it.

    Raises:
        UserError: an option has no effect; the message names the option and what it needs.
    """
    check_dataset(matrix.dataset.name, {key[1:]: name for key, name in options.items() if key[0] == "dataset"})
    modalities = {modality for entry in matrix.modality for modality in entry.split("+")}
    unused = f"is not used with modality {', '.join(matrix.modality)}"
    images = tuple(("dataset", *key) for key in _IMAGE_KEYS)
    external = _has_external_encoder(matrix, modalities)
    on_gpu = matrix.device != "cpu" and matrix.training.attention == "sdpa"
    for keys, applies, reason in (
        ((("backbones", 0, "text"),), "text" in modalities, unused),
        ((("backbones", 0, "image"), *images), "image" in modalities, unused),
        ((("backbones", 0, "trust_remote_code"),), external, "is not used with built-in encoders, which have no code"),
        ((("training", "cudnn_attention"),), on_gpu, 'is used on a GPU with attention = "sdpa" only'),
    ):
        if not applies:
            _refuse(keys, options, reason)


def check_dataset(name: str, options: Mapping[KeyPath, str]) -> None:
    """Checks that every option given on the dataset applies to its kind.

    Args:
        name: kind of the dataset, such as shop.
        options: key path within the dataset -> command-line option that set it.

    Raises:
        UserError: an option belongs to another kind of dataset; the message names the option and the kind it needs.
    """
    if KINDS[name].in_files:
        _refuse(_SHOP_KEYS, options, f"is not used with dataset {name}, only with --dataset {GENERATED}")
    else:
        reason = f"is not used with dataset {name}, only with data in files, such as --dataset table"
        _refuse(_FILE_KEYS, options, reason)


def _refuse(keys: tuple[KeyPath, ...], options: Mapping[KeyPath, str], reason: str) -> None:
    for key in keys:
        if key in options:
            raise UserError(f"{options[key]}: {reason}")


def _has_external_encoder(matrix: Matrix, modalities: set[str]) -> bool:
    """True if any encoder of these modalities is not built in."""
    names = {getattr(pair, modality) for pair in matrix.backbones for modality in modalities}
    return bool(names - {*PRETRAINED, *CONFIGURATIONS})
