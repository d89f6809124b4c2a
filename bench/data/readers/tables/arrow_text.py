"""Conversion of parquet columns to text, value by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.utils.errors import UserError

_EXACT = {2: 1 << 11, 4: 1 << 24, 8: 1 << 53}
"""Bytes of a floating-point number -> largest magnitude up to which every whole number is exact."""
_IDS = ("user", "item")


def arrow_text(column: Any, path: Path, role: str) -> Any:
    """Values of a column as strings, (rows,), empty where a value is missing. Whole numbers have no decimal point.

    Args:
        column: a pyarrow array.
        path: the file, for messages.
        role: what the column means; ids must be exact.

    Raises:
        UserError: the type of the column has no text, or an id is a floating-point number too large to be exact.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        return arrow_text(column.dictionary_decode(), path, role)
    if pa.types.is_floating(kind):
        return _float_text(column.to_numpy(zero_copy_only=False), path, role)
    try:
        text = column.cast(pa.string()).to_pandas().fillna("").astype("str")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: the column of {role}s is of type {kind}; save it as text or numbers") from error
    return text.str.replace(r"\.0+$", "", regex=True) if pa.types.is_decimal(kind) else text


def _float_text(values: Any, path: Path, role: str) -> Any:
    exact = _EXACT[values.dtype.itemsize]
    codes, found = pd.factorize(values)
    if role in _IDS and len(found) and np.abs(found).max() > exact:
        value = float(found[np.abs(found).argmax()])
        raise UserError(
            f"{path}: {role} {value!r} is a floating-point number beyond {exact}, where different ids become equal; "
            "save ids as whole numbers or text"
        )
    texts = [str(int(value)) if value.is_integer() else repr(value) for value in map(float, found)]
    return np.array([*texts, ""], dtype=object)[codes]  # the code of a missing value is -1
