"""The dataset part of a matrix."""

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
    """Names of the columns of tables, by role; None for the usual name."""

    user: ColumnName | None = None
    item: ColumnName | None = None
    title: ColumnName | None = None
    timestamp: ColumnName | None = None
    image: ColumnName | None = None
    rating: ColumnName | None = None


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DatasetConfig:
    """Choice of a dataset, its size, files and split.

    Attributes:
        name: kind of the dataset (``bench.data.kinds``).
        seed, items, users: seed and size of the generated shop.
        data_dir, image_dir: folders of data in files; pictures default to ``images/`` in ``data_dir``.
        missing_images, bad_images: policy for items whose picture is absent, or cannot be read.
        columns: names of the columns of data in tables.
        min_rating: least rating of the interactions that are kept; None to keep all of them.
        split: rule that divides the interactions into training, validation and test.
        valid_from, test_from: first moments of validation and test in a temporal split, on the scale of the timestamps.
        max_tokens: length to which titles are cut, in tokens.
        force_tokenizer: run even if the tokenizer knows less than half of the words of the titles, tells less than half
            of the titles apart, or is not the one of its tokenizer.json.
        lower_case: lower-case titles before the tokenizer gets them, as the IISAN paper does; otherwise their case is
            left to the tokenizer.
    """

    name: KindName = GENERATED
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    items: Annotated[int, Field(ge=50, le=1_000_000)] = 128
    users: Annotated[int, Field(ge=20, le=10_000_000)] = 6000
    data_dir: str | None = None
    image_dir: str | None = None
    missing_images: ImagePolicy = "fail"
    bad_images: ImagePolicy = "fail"
    columns: Columns = Columns()
    min_rating: Annotated[float, Field(allow_inf_nan=False)] | None = None
    split: Literal["leave-one-out", "temporal"] = "leave-one-out"
    valid_from: Moment | None = None
    test_from: Moment | None = None
    max_tokens: Annotated[int, Field(ge=4, le=512)] = 30
    force_tokenizer: bool = False
    lower_case: bool = False
