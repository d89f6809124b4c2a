"""Runs the checks of ``methods.contract`` on a method that is built, trained and measured as in a cell.

The encoders are a BERT and a ViT of 12 layers, as in every built-in pair, but narrow and random, and the batch is
synthetic. The checks need no data, no cache and no network, and take seconds per method.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.cell.assemble import build_model, kept_layers, load_encoders, reads_cache
from bench.cell.planner import Planner, Sizes
from bench.config.cells import Cell, cells
from bench.config.matrix import build_method, parse
from bench.data.batches import Batch, make_batch
from bench.data.splits import MAX_INPUTS, PAD
from bench.measure.memory import MemoryAccount
from bench.models.backbones import Source, locate
from bench.models.encoders import Encoder
from bench.models.hidden_states import HIDDEN_KEY
from bench.models.quantisation import count_values
from bench.models.recommender import TrainBatch
from bench.training.loop import Trainer
from bench.training.probe import probe, step_account
from methods.base import HiddenMethod, Method, method_class
from methods.contract import Outcome, outcomes
from methods.contract.rig import BOTH
from methods.contract.surroundings import differences, generators, global_state, settings
from methods.loading import line_of, load_file
from methods.registry import known

CPU = torch.device("cpu")
WIDTH = 16
USERS, ITEMS, TOKENS, VOCABULARY = 6, 40, 9, 60
LAYERS = {"num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 48, "hidden_size": 24}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "text": {"model_type": "bert", "vocab_size": VOCABULARY, "max_position_embeddings": 16, **LAYERS},
    "image": {"model_type": "vit", "image_size": 32, "patch_size": 16, **LAYERS},
}


class BuiltCase:
    """A method built with model and optimizer, and a batch for it (:class:`methods.contract.rig.Case`)."""

    def __init__(self, trainer: Trainer, encoders: Mapping[str, Encoder], inputs: dict[str, Tensor], batch: Batch):
        self.trainer = trainer
        self.model: nn.Module = trainer.model
        self.items: Any = trainer.model.item_encoder
        self.groups = trainer.groups
        self.encoders = encoders
        self.optimised: Sequence[nn.Parameter] = [
            p for group in trainer.optimizer.param_groups for p in group["params"]
        ]
        self._inputs = inputs
        self._batch = batch

    def batch(self) -> TrainBatch:
        """A fresh copy of the batch, as in every training step: a method may change its inputs in place."""
        inputs = {key: value.clone() for key, value in self._inputs.items()}
        popularity = np.full(ITEMS, -np.log(ITEMS), dtype=np.float32)
        return self.trainer.transfer(self._batch, inputs, popularity)

    @torch.no_grad()
    def vectors(self) -> Tensor:
        """Vectors of the distinct items of the batch in eval mode, (n, d)."""
        self.model.eval()
        return self.items(self.batch().inputs)

    @torch.no_grad()
    def loss(self) -> float:
        """Loss of the batch in eval mode, without gradients."""
        self.model.eval()
        return float(self.model(self.batch()))

    def forward(self) -> Tensor:
        """Loss of the batch in train mode, a scalar with gradients."""
        self.model.train()
        return self.trainer.forward(self.batch())

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients of a loss."""
        self.trainer.backward(loss)

    def update(self) -> None:
        """Updates the weights and frees the gradients."""
        self.trainer.update()

    def peak(self, steps: int) -> int:
        """Peak of live tensor bytes over the given number of further training steps."""
        self.model.train()
        return step_account(self.trainer, self.batch(), steps).peak_bytes


class HarnessRig:
    """Builds and measures one method with its default options (:class:`methods.contract.rig.Rig`).

    Args:
        name: name of the method.
        folder: folder with the configurations of both encoders (:func:`encoder_folders`).
        import_changes: changes that the import of the method made to torch and the random generators.
    """

    def __init__(self, name: str, folder: Path, import_changes: Sequence[str]):
        self._cell = _cell(name, folder)
        self.method: Method = build_method(self._cell.method, "check")
        self.width = WIDTH
        self.import_changes = import_changes
        rows = np.random.default_rng(0).integers(0, ITEMS, size=(USERS, MAX_INPUTS + 1), dtype=np.int32)
        rows[0, :4] = PAD
        self._batch = make_batch(rows)
        self.before = global_state(self)

    def _sources(self, modalities: Sequence[str]) -> dict[str, Source]:
        return {m: locate(str(self._cell.model(m)), m, "random") for m in modalities}  # type: ignore[arg-type]

    def encoder(self, modality: str) -> Encoder:
        """The encoder of a modality, as a method gets it, with the same weights at every call."""
        return load_encoders(self._sources((modality,)), self._cell)[modality]

    def inputs(self) -> dict[str, Tensor]:
        """Raw inputs of the distinct items of the batch: token ids and mask (n, tokens), pixels (n, 32, 32, 3)."""
        generator = torch.Generator().manual_seed(1)
        n = len(self._batch.unique)
        mask = torch.ones(n, TOKENS, dtype=torch.int64)
        mask[::3, TOKENS // 2 :] = 0
        return {
            "input_ids": torch.randint(1, VOCABULARY, (n, TOKENS), generator=generator),
            "attention_mask": mask,
            "pixels": torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=generator),
        }

    def case(self, modalities: Sequence[str] = BOTH, seed: int = 0, cached: bool | None = None) -> BuiltCase:
        """Builds the method anew.

        Args:
            seed: seed of the method's own weights; the encoders and the batch do not depend on it.
            cached: value of the method's option ``cached``; None for its default.
        """
        method: Any = self.method if cached is None else dataclasses.replace(self.method, cached=cached)  # type: ignore[call-arg]
        cell = dataclasses.replace(self._cell, modality="+".join(modalities), seed=seed)
        sources = self._sources(modalities)
        encoders = load_encoders(sources, self._cell)
        inputs = self.inputs()
        if reads_cache(method):
            inputs = self._states(method, encoders, inputs)
        built = build_model(cell, method, sources, encoders)
        trainer = Trainer(built.model, built.groups, cell.training, cell.precision, CPU)
        torch.manual_seed(seed)
        return BuiltCase(trainer, {} if reads_cache(method) else encoders, inputs, self._batch)

    @torch.no_grad()
    def _states(
        self, method: HiddenMethod, encoders: Mapping[str, Encoder], inputs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        kept = kept_layers(method, self._sources(tuple(encoders)))
        return {HIDDEN_KEY.format(m): e.eval().hidden_states(inputs, kept[m]) for m, e in encoders.items()}

    def planned(self) -> dict[str, int]:
        """Costs of a training step as ``plan`` predicts them on fake tensors, by name."""
        plan = Planner(self._cell).plan(self, USERS)
        return _costs(plan.memory, plan.trainable_params, plan.total_params) | dataclasses.asdict(plan.flops)

    def measured(self) -> dict[str, int]:
        """Costs of a training step measured on real tensors, by name as in :meth:`planned`."""
        case = self.case()
        memory, flops = probe(case.trainer, case.batch())
        trained = sum(group.count for group in case.groups)
        total = count_values(case.model.parameters())
        return _costs(memory, trained, total) | dataclasses.asdict(flops)

    # The remaining members make the rig a Workload, which Planner.plan needs.
    name = "check"
    n_items = ITEMS
    most_users = USERS

    def sizes(self, users: int) -> Sizes:
        """Sizes of the batch for a number of users."""
        return Sizes(users, len(self._batch.unique), len(self._batch.positions), TOKENS, padded=True)


def _costs(memory: MemoryAccount, trained: int, total: int) -> dict[str, int]:
    return {"trained parameters": trained, "parameters": total, **memory.as_dict()}


def _cell(name: str, folder: Path) -> Cell:
    recipe = {
        "name": "check",
        "methods": [{"name": name}],
        "backbones": [{m: str(folder / m) for m in BOTH} | {"weights": "random"}],
        "budget": {"epochs": 1, "batch_size": USERS},
        "training": {
            "width": WIDTH,
            "logit_scale": WIDTH**-0.5,
            "lr_warmup_steps": 0,
            "lr_schedule": "constant",
            "cache_dtype": "float32",
        },
    }
    return cells(parse(recipe, "check"), "cpu")[0]


@contextmanager
def encoder_folders() -> Iterator[Path]:
    """Temporary folder with the configurations of both encoders, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="iisan-bench-check-") as root:
        for modality, configuration in CONFIGURATIONS.items():
            folder = Path(root) / modality
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(configuration), encoding="utf-8")
        yield Path(root)


def watched_import(load: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Result of ``load``, and the settings of torch and random generators that it changed."""
    before = settings() | generators()
    result = load()
    return result, differences(before, settings() | generators())


def load_methods(files: Sequence[Path], names: Sequence[str]) -> dict[str, list[str]]:
    """Runs method files and imports named methods.

    Returns:
        Name of a method -> settings that its import changed (:func:`watched_import`).

    Raises:
        UserError: a file cannot be run, or a name is unknown.
    """
    changes: dict[str, list[str]] = {}
    for path in files:
        loaded, changed = watched_import(lambda path=path: load_file(path))  # type: ignore[misc]
        changes |= dict.fromkeys(loaded.names, changed)
    for name in names:
        _, changed = watched_import(lambda name=name: method_class(name))  # type: ignore[misc]
        changes.setdefault(name, changed)
    return changes


def check(name: str, import_changes: Sequence[str] = ()) -> Iterator[tuple[Outcome, float]]:
    """Runs the checks on one method; yields the outcome of each check and its time in seconds.

    Args:
        import_changes: settings that the import of the method changed (:func:`load_methods`).

    Raises:
        UserError: the method's default options are invalid.
    """
    origin = known()[name].origin

    def explain(error: Exception) -> str:
        line = line_of(Path(origin), error) if origin else None
        at = "" if line is None else f" ({Path(origin).name}, line {line})"
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{at}"

    with encoder_folders() as folder:
        rig = HarnessRig(name, folder, import_changes)
        started = time.perf_counter()
        for outcome in outcomes(rig, explain):
            now = time.perf_counter()
            yield outcome, now - started
            started = time.perf_counter()
