"""Pictures of shop items, drawn with Pillow: a silhouette per category, filled with a two-tone pattern."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CANVAS = 64
SIZE = 32
RGB: tuple[tuple[int, int, int], ...] = (
    (205, 45, 45), (235, 135, 35), (230, 210, 60), (60, 150, 60), (40, 160, 160), (50, 80, 200), (130, 60, 170),
    (235, 140, 180), (125, 80, 45), (45, 45, 50),
)  # fmt: skip
Draw = ImageDraw.ImageDraw


def _lamp(d: Draw) -> None:
    d.polygon([(22, 10), (42, 10), (52, 34), (12, 34)], fill=255)
    d.rectangle([29, 34, 35, 50], fill=255)
    d.rectangle([18, 50, 46, 56], fill=255)


def _chair(d: Draw) -> None:
    d.rectangle([14, 8, 22, 56], fill=255)
    d.rectangle([14, 32, 50, 40], fill=255)
    d.rectangle([43, 32, 50, 56], fill=255)


def _mug(d: Draw) -> None:
    d.rectangle([12, 16, 42, 54], fill=255)
    d.ellipse([34, 22, 58, 46], fill=255)
    d.ellipse([41, 28, 52, 40], fill=0)
    d.rectangle([12, 16, 41, 54], fill=255)


def _bottle(d: Draw) -> None:
    d.rectangle([28, 4, 36, 24], fill=255)
    d.polygon([(28, 18), (36, 18), (44, 30), (20, 30)], fill=255)
    d.rectangle([20, 29, 44, 60], fill=255)


def _bag(d: Draw) -> None:
    d.ellipse([20, 6, 44, 40], fill=255)
    d.ellipse([26, 12, 38, 36], fill=0)
    d.polygon([(14, 26), (50, 26), (56, 58), (8, 58)], fill=255)


def _boot(d: Draw) -> None:
    d.rectangle([14, 8, 32, 56], fill=255)
    d.pieslice([12, 34, 58, 78], 180, 360, fill=255)


def _hat(d: Draw) -> None:
    d.pieslice([16, 12, 48, 72], 180, 360, fill=255)
    d.rectangle([4, 40, 60, 48], fill=255)


def _clock(d: Draw) -> None:
    d.ellipse([12, 14, 52, 54], fill=255)
    d.ellipse([8, 6, 24, 22], fill=255)
    d.ellipse([40, 6, 56, 22], fill=255)
    d.rectangle([30, 24, 34, 36], fill=0)
    d.rectangle([30, 33, 42, 36], fill=0)


def _table(d: Draw) -> None:
    d.rectangle([6, 18, 58, 26], fill=255)
    d.rectangle([10, 26, 17, 56], fill=255)
    d.rectangle([47, 26, 54, 56], fill=255)


def _umbrella(d: Draw) -> None:
    d.pieslice([6, 8, 58, 62], 180, 360, fill=255)
    d.rectangle([30, 34, 34, 60], fill=255)
    d.rectangle([22, 56, 34, 60], fill=255)


def _shirt(d: Draw) -> None:
    right = [(42, 8), (60, 18), (54, 30), (46, 26), (46, 58)]
    left = [(18, 58), (18, 26), (10, 30), (4, 18), (22, 8)]
    d.polygon([*right, *left], fill=255)


def _vase(d: Draw) -> None:
    d.rectangle([25, 6, 39, 30], fill=255)
    d.rectangle([19, 6, 45, 11], fill=255)
    d.ellipse([12, 22, 52, 60], fill=255)


def _star(d: Draw) -> None:
    angles = np.pi * np.arange(10) / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, 29, 12)
    d.polygon(np.stack([32 + radii * np.cos(angles), 33 + radii * np.sin(angles)], axis=1).ravel().tolist(), fill=255)


def _box(d: Draw) -> None:
    d.rectangle([6, 24, 58, 56], fill=255)
    d.polygon([(12, 12), (52, 12), (58, 20), (6, 20)], fill=255)


def _birdhouse(d: Draw) -> None:
    d.polygon([(32, 4), (60, 30), (4, 30)], fill=255)
    d.rectangle([12, 30, 52, 58], fill=255)
    d.ellipse([26, 36, 38, 48], fill=0)


def _kite(d: Draw) -> None:
    d.polygon([(36, 2), (56, 22), (32, 46), (14, 18)], fill=255)
    d.line([(32, 46), (22, 54), (30, 62)], fill=255, width=4)


SILHOUETTES: tuple[Callable[[Draw], None], ...] = (
    _lamp, _chair, _mug, _bottle, _bag, _boot, _hat, _clock,
    _table, _umbrella, _shirt, _vase, _star, _box, _birdhouse, _kite,
)  # fmt: skip


def _pattern(index: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mask of the second tone, (64, 64): plain, stripes, bars, diagonal, dots, checks, rings or zigzag."""
    y, x = np.mgrid[0:CANVAS, 0:CANVAS].astype(float)
    px, py = rng.uniform(0, 16, size=2)
    x, y = x + px, y + py
    period = 12.0
    match index:
        case 0:
            return np.zeros((CANVAS, CANVAS), dtype=bool)
        case 1:
            return (x % period) < period / 2
        case 2:
            return (y % period) < period / 2
        case 3:
            return ((x + y) % (period * 1.3)) < period * 0.65
        case 4:
            return ((x % period) - period / 2) ** 2 + ((y % period) - period / 2) ** 2 < 14.0
        case 5:
            return ((x % 16) < 8) ^ ((y % 16) < 8)
        case 6:
            return (np.hypot(x - px - 32, y - py - 32) + px) % 10 < 5
        case _:
            return ((y + np.abs(x % 16 - 8)) % period) < period / 2


def draw(category: int, colour: int, pattern: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Picture of an item, (32, 32, 3) uint8: drawn at 64 x 64 with random pose, tone and phase, then reduced."""
    mask = Image.new("L", (CANVAS, CANVAS), 0)
    SILHOUETTES[category](ImageDraw.Draw(mask))
    angle, scale = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(0.8, 1.15)
    dx, dy = rng.uniform(-5, 5, size=2)
    cos, sin, c = np.cos(angle) / scale, np.sin(angle) / scale, CANVAS / 2
    matrix = (cos, sin, c - cos * (c + dx) - sin * (c + dy), -sin, cos, c + sin * (c + dx) - cos * (c + dy))
    mask = mask.transform((CANVAS, CANVAS), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)

    base = np.clip(np.array(RGB[colour]) + rng.normal(0, 12, size=3), 0, 255)
    # The second tone goes towards white on dark colours and towards black on light ones, so it always shows.
    towards = 255.0 if base.mean() < 110 else 0.0
    second = base + 0.55 * (towards - base)
    fill = np.where(_pattern(pattern, rng)[..., None], second, base)
    ground = np.full(3, rng.uniform(150, 235))
    alpha = np.asarray(mask, dtype=float)[..., None] / 255
    picture = alpha * fill + (1 - alpha) * ground
    small = Image.fromarray(picture.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BOX)
    noisy = np.asarray(small, dtype=float) + rng.normal(0, 6, size=(SIZE, SIZE, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)
