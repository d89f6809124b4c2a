"""Options that would change nothing are refused: whoever gives one expects it to do something."""

from __future__ import annotations

from collections.abc import Mapping

from bench.config.matrix import Matrix
from bench.config.validation_messages import KeyPath
from bench.data.kinds import GENERATED, KINDS
from bench.models.config import CONFIGURATIONS, PRETRAINED
from bench.utils.errors import UserError

_PICTURES: tuple[KeyPath, ...] = (("image_dir",), ("missing_images",), ("bad_images",))
_FILES: tuple[KeyPath, ...] = (("data_dir",), *_PICTURES)
_SHOP: tuple[KeyPath, ...] = (("seed",),)


def check_applicable(matrix: Matrix, options: Mapping[KeyPath, str]) -> None:
    """Refuse options that the resolved matrix has no use for.

    Args:
        options: key path -> command-line option that set it.

    Raises:
        UserError: names the option and what it would need.
    """
    check_dataset(matrix.dataset.name, {key[1:]: name for key, name in options.items() if key[0] == "dataset"})
    modalities = {modality for entry in matrix.modality for modality in entry.split("+")}
    unused = f"is not used with modality {', '.join(matrix.modality)}"
    pictures = tuple(("dataset", *place) for place in _PICTURES)
    for places, applies, why in (
        ((("backbones", 0, "text"),), "text" in modalities, unused),
        ((("backbones", 0, "image"), *pictures), "image" in modalities, unused),
        ((("backbones", 0, "trust_remote_code"),), _foreign(matrix, modalities), "built-in encoders bring no code"),
    ):
        if not applies:
            _refuse(places, options, why)


def check_dataset(name: str, options: Mapping[KeyPath, str]) -> None:
    """Refuse options of another kind of dataset.

    Args:
        options: key path within the dataset -> command-line option that set it.

    Raises:
        UserError: names the option and what it would need.
    """
    if KINDS[name].in_files:
        _refuse(_SHOP, options, f"says nothing about dataset {name}; it goes with --dataset {GENERATED}")
    else:
        _refuse(
            _FILES, options, f"says nothing about dataset {name}; it goes with data in files, such as --dataset table"
        )


def _refuse(places: tuple[KeyPath, ...], options: Mapping[KeyPath, str], why: str) -> None:
    for place in places:
        if place in options:
            raise UserError(f"{options[place]}: {why}")


def _foreign(matrix: Matrix, modalities: set[str]) -> bool:
    """Whether any encoder is not built in."""
    names = {getattr(pair, modality) for pair in matrix.backbones for modality in modalities}
    return bool(names - {*PRETRAINED, *CONFIGURATIONS})
