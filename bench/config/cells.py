"""The cells of a matrix: method × backbones × modality × seed, each with a stable id."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.matrix import Matrix, MethodConfig, MethodFile
from bench.data.config import DatasetConfig
from bench.data.kinds import KINDS
from bench.models.config import Backbones
from bench.records.columns import model_label
from bench.training.config import BudgetConfig, TrainingConfig
from methods.registry import known

# Fields that are not hashed into the cell id, because they do not change the measurement: a trace, saved adapters and
# the test follow it, a checkpoint is written between two steps, and a method file may lie in any folder.
NOT_IN_CELL_ID = ("profile", "checkpoint_every", "save_adapters", "method_file", "test")


@dataclass(frozen=True)
class Cell:
    """One measurement; runs alone in a fresh process and leaves one record.

    Attributes:
        method_file: file that defines the method; None for a method that is built in or installed.
        test: True if the test targets are evaluated after training; False for the trials of ``tune``.
    """

    cell_id: str
    method: MethodConfig
    backbones: Backbones
    modality: str
    seed: int
    dataset: DatasetConfig
    budget: BudgetConfig
    training: TrainingConfig
    device: str
    precision: str
    profile: int | None = None
    checkpoint_every: int | None = None
    save_adapters: bool = False
    method_file: MethodFile | None = None
    test: bool = True

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of the cell: ("text", "image"), ("text",) or ("image",)."""
        return tuple(self.modality.split("+"))

    def model(self, modality: str) -> str | None:
        """Name of the encoder of a modality; None when the cell does not use it."""
        return getattr(self.backbones, modality) if modality in self.modalities else None

    def pooling(self, modality: str) -> Any:
        """Pooling of the tokens of a modality's encoder."""
        return getattr(self.backbones, f"{modality}_pooling")

    def shown_model(self, modality: str) -> str | None:
        """Name of the encoder for tables; None when the cell does not use it."""
        name = self.model(modality)
        return None if name is None else model_label(name, self.pooling(modality), self.backbones.quantise)

    @property
    def columns(self) -> dict[str, Any]:
        """Column of results.csv -> value, for the columns that the configuration decides."""
        return {
            "cell_id": self.cell_id,
            "method": self.method.name,
            "dataset": self.dataset.name,
            "modality": self.modality,
            "text_model": self.shown_model("text"),
            "image_model": self.shown_model("image"),
            "seed": self.seed,
            "device": self.device,
            "precision": self.precision,
            "batch_size": self.budget.batch_size,
            "epochs": self.budget.epochs,
            "steps": self.budget.steps,
            "weights": self.backbones.weights,
            "dataset_seed": None if KINDS[self.dataset.name].in_files else self.dataset.seed,
        }

    @property
    def description(self) -> dict[str, Any]:
        """Name, kind and options of the method, as in ``record.json``."""
        return {"name": self.method.name, "type": self.method.kind, "options": self.method.options}

    def to_json(self) -> str:
        """The cell as JSON text, as it is passed to the cell's process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Cell:
        """Reads a cell from the JSON text of :meth:`to_json`."""
        data: dict[str, Any] = json.loads(text)
        data["method"] = MethodConfig(**data["method"])
        data["backbones"] = Backbones(**data["backbones"])
        data["dataset"] = DatasetConfig(**data["dataset"])
        data["budget"] = BudgetConfig(**data["budget"])
        data["training"] = TrainingConfig(**data["training"])
        data["method_file"] = MethodFile(**data["method_file"]) if data.get("method_file") else None
        return cls(**data)


def _label(cell: Cell) -> str:
    """Short name of the encoders that the cell uses."""
    names = [Path(name).name for name in map(cell.model, cell.modalities) if name is not None]
    weights = "random" if cell.backbones.weights == "random" else None
    return "-".join(filter(None, ("+".join(dict.fromkeys(names)), weights, cell.backbones.quantise)))


def cells(matrix: Matrix, device: str) -> list[Cell]:
    """All cells of a matrix, with the methods of one comparison next to each other.

    Args:
        device: device that the cells run on, such as cpu or cuda:0; not "auto".
    """
    return [
        _cell(matrix, device, method, pair, modality, seed)
        for pair in matrix.backbones
        for modality in matrix.modality
        for seed in matrix.seeds
        for method in matrix.methods
    ]


def _identity(cell: Cell) -> dict[str, Any]:
    """Fields that are hashed into the cell id, with the content of a method file in place of its path."""
    identity = {key: value for key, value in dataclasses.asdict(cell).items() if key not in NOT_IN_CELL_ID}
    return identity if cell.method_file is None else identity | {"method_sha256": cell.method_file.sha256}


def _cell(matrix: Matrix, device: str, method: MethodConfig, pair: Backbones, modality: str, seed: int) -> Cell:
    origin = known()[method.kind].origin
    cell = Cell(
        cell_id="",
        method=method,
        backbones=pair,
        modality=modality,
        seed=seed,
        dataset=matrix.dataset,
        budget=matrix.budget,
        training=matrix.training,
        device=device,
        precision=matrix.precision,
        profile=matrix.profile,
        checkpoint_every=matrix.checkpoint_every,
        save_adapters=matrix.save_adapters,
        method_file=next((file for file in matrix.method_files or () if file.path == origin), None),
    )
    digest = hashlib.sha256(json.dumps(_identity(cell), sort_keys=True).encode()).hexdigest()[:6]
    label = re.sub(r"[^A-Za-z0-9._+-]", "_", _label(cell))[:60]
    return dataclasses.replace(cell, cell_id=f"{method.name}--{label}--{modality}--s{seed}--{digest}")
