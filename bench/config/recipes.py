"""Recipes (presets and matrix files before validation): inheritance (``extends``) and expansion over datasets.

Imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.utils.errors import UserError

Recipe = dict[str, Any]
TABLES = ("dataset", "budget", "training")
BUDGETS = ("epochs", "steps", "seconds")
MOST_DATASETS = 100
# The presets with learning rates and encoders for the generated shop, and for data in files.
SHOP_PRESET, FILES_PRESET = "default", "amazon"


def extended(recipe: Recipe, origin: str, read: Callable[[str], Recipe], in_files: bool) -> Recipe:
    """A recipe merged over the preset that it extends.

    Tables are merged key by key. If the recipe has methods, only these run; each gets the options that the preset
    gives to the method of the same kind, with its own options over them.

    Args:
        recipe: content of a matrix file, its shape checked; ``extends = "NAME"`` names a preset.
        origin: file or preset that error messages name.
        read: function from the name of a preset to its recipe, already extended.
        in_files: True if the data are in files: learning rates and encoders of the generated shop do not fit then.

    Raises:
        UserError: ``extends`` is not the name of a preset.
    """
    if "extends" not in recipe:
        return recipe
    own = {key: value for key, value in recipe.items() if key != "extends"}
    name = recipe["extends"]
    if not isinstance(name, str):
        raise UserError(f"{origin}: extends: must be the name of a preset, got {name!r}")
    base = read(FILES_PRESET if in_files and name == SHOP_PRESET else name)
    whole = {**base, **own}
    budget = own.get("budget", {})
    if any(key in budget for key in BUDGETS):
        base["budget"] = {key: value for key, value in base.get("budget", {}).items() if key not in BUDGETS}
    whole |= {key: {**base.get(key, {}), **own[key]} for key in TABLES if key in own}
    if "methods" in own:
        options = {_kind(method): method for method in base.get("methods", [])}
        whole["methods"] = [{**options.get(_kind(method), {}), **method} for method in own["methods"]]
    return whole


def _kind(method: Recipe) -> str:
    return str(method.get("kind", method.get("name")))


def expand_datasets(recipe: Recipe, origin: str) -> list[Recipe]:
    """One recipe per table under ``datasets``, or the recipe itself if it has no such tables.

    Each table is merged over ``dataset``, and the name of its recipe ends in a label of the dataset.

    Raises:
        UserError: ``datasets`` is not a list of tables, or is too long.
    """
    if "datasets" not in recipe:
        return [recipe]
    shared = {key: value for key, value in recipe.items() if key != "datasets"}
    tables = recipe["datasets"]
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{origin}: datasets must be tables: [[datasets]] with a data_dir or a seed each")
    if len(tables) > MOST_DATASETS:
        raise UserError(f"{origin}: datasets: at most {MOST_DATASETS}, got {len(tables)}")
    datasets = [{**shared.get("dataset", {}), **table} for table in tables]
    labels: list[str] = []
    for dataset in datasets:
        label = _label(dataset)
        earlier = sum(other == label or other.startswith(f"{label}.") for other in labels)
        labels.append(f"{label}.{earlier + 1}" if earlier else label)
    return [
        {**shared, "name": f"{shared.get('name')}-{label}", "dataset": dataset}
        for label, dataset in zip(labels, datasets, strict=True)
    ]


def _label(dataset: Recipe) -> str:
    """Short name of a dataset: the name of its folder, or its kind and seed for the generated shop."""
    folder = dataset.get("data_dir")
    text = Path(str(folder)).absolute().name if folder else f"{dataset.get('name', 'shop')}-{dataset.get('seed', 1)}"
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[:24] or "data"
