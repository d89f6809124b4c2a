"""The part of a matrix that says which dataset a cell runs on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from bench.data.kinds import GENERATED, KindName

ImagePolicy = Literal["fail", "drop-item", "mean-image"]
Moment = Annotated[str, Field(min_length=1)]
ColumnName = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Columns:
    """What the columns of tables are called, where that is not the usual name."""

    user: ColumnName | None = None
    item: ColumnName | None = None
    title: ColumnName | None = None
    timestamp: ColumnName | None = None
    image: ColumnName | None = None


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DatasetConfig:
    """Which catalogue.

    Attributes:
        seed, items, users: of the generated shop.
        data_dir, image_dir: of data in files; images default to ``images/`` inside ``data_dir``.
        missing_images, bad_images: what to do about items whose image is not there, or cannot be read.
        columns: of the datasets table, recbole and microlens.
        split: which interactions train, validate and test.
        valid_from, test_from: for the temporal split, on the scale of the timestamps.
        force_tokenizer: go on although the tokenizer knows less than half of the titles' words.
    """

    name: KindName = GENERATED
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    items: Annotated[int, Field(ge=50, le=1_000_000)] = 700
    users: Annotated[int, Field(ge=20, le=10_000_000)] = 1500
    data_dir: str | None = None
    image_dir: str | None = None
    missing_images: ImagePolicy = "fail"
    bad_images: ImagePolicy = "fail"
    columns: Columns = Columns()
    split: Literal["leave-one-out", "temporal"] = "leave-one-out"
    valid_from: Moment | None = None
    test_from: Moment | None = None
    max_tokens: Annotated[int, Field(ge=4, le=512)] = 30
    force_tokenizer: bool = False
