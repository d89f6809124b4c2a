"""Image processor of a model: from the content of its file to framing, normalisation and notes on departures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.data.framing import PLAIN_RESAMPLE, Framing

HALF = (0.5, 0.5, 0.5)
# Below this size ConvNeXt's processor resizes to a larger shorter edge and crops; above it changes the aspect ratio.
_CONVNEXT_PLAIN_FROM = 384
_CONVNEXT_CROP_SHARE = 224 / 256


@dataclass(frozen=True)
class PictureProcessor:
    """Steps from a picture to pixel values.

    Attributes:
        framing: resizing and cropping.
        mean, std: normalisation constants per channel, for pixels scaled to 0..1.
        notes: steps of the processor's file that are done in another way here.
    """

    framing: Framing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()


def read_processor(facts: dict[str, Any], model_type: str, size: Any, *, any_size: bool) -> PictureProcessor:
    """Image processor from the content of its file; ViT's defaults if that is empty.

    Args:
        facts: content of ``preprocessor_config.json``.
        size: ``image_size`` of the encoder's configuration.
        any_size: the encoder takes pictures of any size, so that the processor decides it.

    Raises:
        ValueError, TypeError: a value makes no sense, or a step is not supported.
    """
    facts = _class_defaults(facts) | {key: value for key, value in facts.items() if value is not None}
    if facts.get("do_flip_channel_order"):
        raise ValueError("its image processor swaps red and blue (do_flip_channel_order); not supported")
    notes: list[str] = []
    resize, crop = _resize_and_crop(facts, model_type, notes)
    asked = crop or (resize if isinstance(resize, int) else None if resize is None else resize[0])
    final = asked if any_size and asked else _side(size)
    if resize is None:
        resize = (final, final)
    if isinstance(resize, int) and crop is None:
        crop = resize
        notes.append("pictures that are not square are cropped to their middle, where the processor leaves them as is")
    if asked not in (None, final):
        notes.append(f"the processor gives {asked} × {asked} pixels, the encoder takes {final} × {final}")
        if crop is None:
            resize = (final, final)
    framing = Framing(final, resize, crop, int(facts.get("resample", PLAIN_RESAMPLE)))
    scale = 255 * float(facts.get("rescale_factor", 1 / 255)) if facts.get("do_rescale", True) else 255.0
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if facts.get("do_normalize", True):
        mean, std = tuple(facts.get("image_mean") or HALF), tuple(facts.get("image_std") or HALF)
    if abs(scale - 1) > 1e-6:
        mean, std = tuple(value / scale for value in mean), tuple(value / scale for value in std)
    return PictureProcessor(framing, mean, std, tuple(notes))


def _resize_and_crop(
    facts: dict[str, Any], model_type: str, notes: list[str]
) -> tuple[tuple[int, int] | int | None, int | None]:
    """Resizing and crop as the file says, each None if it says nothing; departures are added to the notes."""
    # Without a class of its own a file that names a size of the crop means it.
    crops = facts.get("do_center_crop", "image_processor_type" not in facts)
    crop = _side(facts["crop_size"]) if crops and facts.get("crop_size") else None
    if not facts.get("do_resize", True):
        notes.append("the processor does not resize; pictures are resized here, since encoders get batches of one size")
        return None, None
    size = facts.get("size")
    if size is None:
        return None, crop
    if isinstance(size, dict) and not {"height", "shortest_edge"} & size.keys():
        notes.append(f"the processor's size {size} is not supported; pictures are resized plainly")
        return None, None
    keeps_ratio = isinstance(size, dict) and "height" not in size
    # Old files hold a number: the shorter edge where a crop follows, both edges otherwise.
    if isinstance(size, int) and crop is not None:
        keeps_ratio = True
    side = _side(size)
    if model_type.startswith("convnext") or "ConvNext" in str(facts.get("image_processor_type")):
        if side >= _CONVNEXT_PLAIN_FROM:
            return (side, side), crop
        return int(side / float(facts.get("crop_pct") or _CONVNEXT_CROP_SHARE)), side
    if keeps_ratio:
        return side, crop
    width = size["width"] if isinstance(size, dict) else size[-1] if isinstance(size, list | tuple) else size
    return (side, int(width)), crop


def _class_defaults(facts: dict[str, Any]) -> dict[str, Any]:
    """Values that the file leaves to the class it names; empty if it names none or transformers lacks the class."""
    import transformers

    named = facts.get("image_processor_type") or facts.get("feature_extractor_type")
    if not isinstance(named, str):
        return {}
    plain = named.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    cls = getattr(transformers, f"{plain}Pil", None)
    keys = ("size", "resample", "do_center_crop", "crop_size", "image_mean", "image_std", "do_resize", "do_rescale")
    found = {key: getattr(cls, key, None) for key in (*keys, "do_normalize", "rescale_factor", "crop_pct")}
    return {key: value for key, value in found.items() if value is not None}


def _side(size: Any) -> int:
    """Image height in pixels from a size as configurations and processors write it: a number, a pair, or a table."""
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    return int(size[0] if isinstance(size, list | tuple) else size)
