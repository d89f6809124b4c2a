"""Recipes as they are written: one that goes on from another, and one over several datasets. Imports nothing heavy."""

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
SHOPS_OWN, IN_FILES = "default", "amazon"


def extended(recipe: Recipe, origin: str, read: Callable[[str], Recipe], in_files: bool) -> Recipe:
    """A recipe with what it leaves out taken from the one that it extends.

    A table's keys go over the other's one by one. A recipe with methods of its own runs these; each takes the options
    that the other gives to the method of its kind, and puts its own over them.

    Args:
        recipe: as read from TOML, its tables being tables; ``extends = "NAME"`` names a shipped recipe.
        read: gives a shipped recipe by its name, itself extended.
        in_files: the data are in files: learning rates and encoders of the generated shop do not fit then.

    Raises:
        UserError: ``extends`` is no name of a shipped recipe.
    """
    if "extends" not in recipe:
        return recipe
    own = {key: value for key, value in recipe.items() if key != "extends"}
    name = recipe["extends"]
    if not isinstance(name, str):
        raise UserError(f"{origin}: extends: must be the name of a shipped recipe, got {name!r}")
    base = read(IN_FILES if in_files and name == SHOPS_OWN else name)
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


def over_datasets(recipe: Recipe, origin: str) -> list[Recipe]:
    """A recipe for each table under ``datasets``, laid over ``dataset`` and named by it; the recipe alone without any.

    Raises:
        UserError: ``datasets`` is no list of tables.
    """
    if "datasets" not in recipe:
        return [recipe]
    shared = {key: value for key, value in recipe.items() if key != "datasets"}
    tables = recipe["datasets"]
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{origin}: datasets must be tables: [[datasets]] with a data_dir or a seed each")
    if len(tables) > MOST_DATASETS:
        raise UserError(f"{origin}: datasets: at most {MOST_DATASETS}, got {len(tables)}")
    whole = [{**shared.get("dataset", {}), **table} for table in tables]
    labels: list[str] = []
    for dataset in whole:
        label = _label(dataset)
        again = sum(other == label or other.startswith(f"{label}.") for other in labels)
        labels.append(f"{label}.{again + 1}" if again else label)
    return [
        {**shared, "name": f"{shared.get('name')}-{label}", "dataset": dataset}
        for label, dataset in zip(labels, whole, strict=True)
    ]


def _label(dataset: Recipe) -> str:
    """Short name of a dataset: the folder's, or that of the generated shop with its seed."""
    folder = dataset.get("data_dir")
    text = Path(str(folder)).absolute().name if folder else f"{dataset.get('name', 'shop')}-{dataset.get('seed', 1)}"
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[:24] or "data"
