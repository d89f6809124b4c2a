"""Framing of pictures: from a picture of any shape to the square of pixels that an encoder takes."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

PLAIN_RESAMPLE = int(Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class Framing:
    """Resize, then crop the middle, as image processors of transformers do.

    Attributes:
        size: height and width of the result in pixels.
        resize: height and width to resize to, which may change the aspect ratio; a number for the shorter edge, which
            keeps it.
        crop: height and width of the middle that is cut out, with black where the picture is smaller; None for no crop.
        resample: number of Pillow's filter for resizing.
    """

    size: int
    resize: tuple[int, int] | int
    crop: int | None = None
    resample: int = PLAIN_RESAMPLE

    @classmethod
    def of(cls, size: PictureSize) -> Framing:
        """The framing itself, or the plain one of a size: resized by bilinear interpolation, whatever the ratio."""
        return size if isinstance(size, Framing) else cls(size, (size, size))

    @property
    def key(self) -> str | int:
        """Part of cache keys; the size alone for plain framing."""
        return self.size if self == Framing.of(self.size) else repr(self)

    def apply(self, image: Image.Image) -> Image.Image:
        """The picture as size × size pixels; a crop of another size is resized to it by the same filter."""
        if isinstance(self.resize, int):
            width, height = image.size
            short = min(width, height)
            # As transformers rounds: the longer edge down.
            edges = tuple(self.resize if edge == short else int(self.resize * edge / short) for edge in (width, height))
        else:
            edges = (self.resize[1], self.resize[0])
        filtered = Image.Resampling(self.resample)
        image = image.resize(edges, filtered)  # type: ignore[arg-type]
        if self.crop is not None:
            left, top = ((edge - self.crop) // 2 for edge in image.size)
            image = image.crop((left, top, left + self.crop, top + self.crop))
        return image if image.size == (self.size, self.size) else image.resize((self.size, self.size), filtered)

    def __str__(self) -> str:
        ratio = isinstance(self.resize, int)
        to = f"shorter edge to {self.resize}" if ratio else "{} × {}".format(*self.resize)  # type: ignore[misc]
        parts = [f"resized ({to}, {Image.Resampling(self.resample).name.lower()})"]
        if self.crop is not None:
            parts.append(f"middle {self.crop} × {self.crop} cropped")
        ends = (self.crop, self.crop) if self.crop is not None else self.resize
        if ends != (self.size, self.size):
            parts.append(f"resized to {self.size} × {self.size}, the size of the encoder")
        return ", ".join(parts)


PictureSize = int | Framing
"""Height and width in pixels of plainly resized pictures, or their framing."""
