"""Check of the data and models of all cells before the first cell runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from bench.cell.assemble import check_budget, check_encoders, check_method, check_network, load_data, raw_feed
from bench.config.cells import Cell
from bench.data.baselines import references
from bench.data.datasets import describe
from bench.models.loading.describe import describe_all
from bench.utils.errors import UserError
from bench.utils.text import printable


def check_inputs(cells: Sequence[Cell]) -> dict[str, Any]:
    """Load data and tokenizers for every pair of encoders and modality, so that bad input is found before a cell runs.

    Returns:
        Content of ``dataset.json``.

    Raises:
        UserError: bad data, a model that cannot be used, a method that cannot be built on it or trained with the
            budget.
    """
    folder = cells[0].dataset.data_dir
    if folder is not None and not os.path.isdir(folder):  # before models are fetched from the hub
        raise UserError(f"--data-dir {folder}: no such folder")
    facts: dict[str, Any] = {}
    unknown_shares: dict[str, float] = {}
    warnings: list[str] = []
    encoders: list[dict[str, str]] = []
    for key in dict.fromkeys((cell.backbones, cell.modality) for cell in cells):
        group = [cell for cell in cells if (cell.backbones, cell.modality) == key]
        data = load_data(group[0])
        for warning in data.catalogue.warnings:
            if warning not in warnings:
                warnings.append(warning)
                print(f"warning: {printable(warning)}", file=sys.stderr)
        for cell in group:
            check_network(cell, data.sources)
            check_budget(cell, data.splits)
        if on_meta := check_encoders(group[0], data.sources):
            for cell in group:
                check_method(cell, on_meta)
        encoders += describe_all(data.sources, lower_case=group[0].dataset.lower_case)
        _, unknown = raw_feed(data, group[0])
        if not facts:
            facts = describe(group[0].dataset, data.catalogue, data.splits)
            facts["references"] = references(group[0].dataset, data.catalogue, data.splits)
        if unknown is not None:
            unknown_shares[str(group[0].model("text"))] = unknown
    return facts | {
        "unknown_token_share": unknown_shares,
        "encoders": [facts for i, facts in enumerate(encoders) if facts not in encoders[:i]],
    }
