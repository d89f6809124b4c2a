"""What a cell will cost, before it runs: exact sizes from a step on fake tensors, without weights and without a GPU.

The model is built and stepped by the code that a cell runs (``build_model``, ``Trainer``, ``probe``). Only the tensors
are others: they have sizes and no contents, so a card's worth of them fits anywhere.

What a plan cannot know: torch without CUDA has no fake CUDA tensors, so the step is planned with the operations of the
CPU. On a card autocast also computes in 32 bit each softmax whose model does not itself ask for that, the kernel of
``sdpa`` keeps other things for backward, and the allocator takes more than what is live (rounding, workspaces,
fragmentation, the context).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.cell.assemble import build_model, kept_layers, load_data, load_encoders, locate_all, reads_cache
from bench.config.cells import Cell
from bench.config.matrix import build_method
from bench.data.batches import largest_batch
from bench.data.splits import MAX_INPUTS, Splits
from bench.measure.flops import Flops
from bench.measure.memory import MemoryAccount
from bench.models.hidden_states import HIDDEN_KEY
from bench.models.inputs import tokenise
from bench.models.quantisation import count_values, storage_tensors, to_empty
from bench.models.recommender import Recommender, TrainBatch
from bench.scoring.roofline import Work
from bench.training.loop import Trainer
from bench.training.probe import probe, step_account
from methods.base import Group, HiddenMethod

CPU = torch.device("cpu")
SMALLEST = 2
"""Users of the smallest batch that trains: one alone has nobody to be told apart from."""
PAPER_ITEMS = 20_314
"""Items of the IISAN paper's Scientific dataset (arXiv 2404.02059) that remain once short sequences are left out."""
ADAM_BYTES = 40
"""Per trained 32-bit value: clipping reads the gradient for its norm, reads and writes it scaled; Adam reads weight,
gradient and two moments and writes weight and moments."""


@dataclass(frozen=True)
class Sizes:
    """What one step is fed with.

    Attributes:
        users: rows of the batch.
        items: distinct items.
        inputs: real input positions.
        tokens: of the longest title; 0 without text.
        padded: some title is shorter. transformers drops a mask that hides nothing, which saves memory.
    """

    users: int
    items: int
    inputs: int
    tokens: int
    padded: bool


class Workload(Protocol):
    """Where the sizes of a step come from.

    Attributes:
        name: "full" or "data".
        n_items: size of the catalogue.
        most_users: a larger batch there is not.
    """

    name: str
    n_items: int
    most_users: int

    def sizes(self, users: int) -> Sizes:
        """Of the step that memory peaks in, with batches of ``users``."""


class FullBatches:
    """Every user with 11 items, all of them distinct, every title as long as titles may be: no data is looked at."""

    name = "full"

    def __init__(self, max_tokens: int, n_items: int = PAPER_ITEMS, most_users: int = 65_536):
        self.n_items = n_items
        self.most_users = most_users
        self._tokens = max_tokens

    def sizes(self, users: int) -> Sizes:
        """Nothing is padded."""
        return Sizes(users, users * (MAX_INPUTS + 1), users * MAX_INPUTS, self._tokens, False)


class DataBatches:
    """The batch that a cell is probed with: the one of the first epoch with the most distinct items.

    Args:
        lengths: tokens per title, (items,); None without text.
        seed: of the cell, which orders the users.
    """

    name = "data"

    def __init__(self, splits: Splits, lengths: NDArray[np.int32] | None, seed: int):
        self.n_items = len(splits.popularity)
        self.most_users = len(splits.train)
        self._splits, self._lengths, self._seed = splits, lengths, seed

    @classmethod
    def of(cls, cell: Cell) -> DataBatches:
        """Loads the cell's catalogue and tokenises its titles.

        Raises:
            UserError: for anything wrong with data or models.
        """
        data = load_data(cell)
        text = data.sources.get("text")
        lengths = None if text is None else tokenise(data.catalogue, text, cell.dataset.max_tokens).lengths
        return cls(data.splits, lengths, cell.seed)

    def sizes(self, users: int) -> Sizes:
        """Of the probe batch."""
        batch = largest_batch(self._splits, users, self._seed)
        tokens, padded = 0, False
        if self._lengths is not None:
            lengths = self._lengths[batch.unique]
            tokens = int(lengths.max())
            padded = bool(lengths.min() < tokens)
        return Sizes(len(batch.items), len(batch.unique), len(batch.positions), tokens, padded)


@dataclass(frozen=True)
class Plan:
    """What one cell will cost.

    Attributes:
        sizes: of the step that was planned.
        trainable_params, total_params: exact.
        memory: account of a training step at its peak.
        flops: of that step.
        cache_bytes: hidden states of ``n_items`` items on disk, without the files' headers; None for a cell without.
        work: forward, backward and update, for the roofline.
    """

    sizes: Sizes
    trainable_params: int
    total_params: int
    memory: MemoryAccount
    flops: Flops
    cache_bytes: int | None
    n_items: int
    work: tuple[Work, Work, Work]


class Planner:
    """One cell's model on fake tensors, ready to be probed with batches of any size.

    Raises:
        UserError: for anything wrong with models or options.
    """

    def __init__(self, cell: Cell):
        self._cell = cell
        self._method = build_method(cell.method, "matrix")
        # Weights are not needed, so random ones do for every model: they are never drawn.
        self._sources = locate_all(cell, "random")
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._padded = True
        self._trainer = self._build()

    def _build(self) -> Trainer:
        # On the meta device first: under a fake mode peft fails to move modules, and ViT to draw its weights.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            encoders = {} if reads_cache(self._method) else load_encoders(self._sources, self._cell)
            built = build_model(self._cell, self._method, self._sources, encoders)
        if "text" in encoders:
            encoders["text"].model.register_forward_pre_hook(self._drop_idle_mask, with_kwargs=True)
        with self._mode:
            groups = _emptied(built.model, built.groups)
            return Trainer(built.model, groups, self._cell.training, self._cell.precision, CPU)

    def _drop_idle_mask(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """As transformers does with a mask that hides nothing, if it can look inside it: in a fake one it cannot."""
        return args, kwargs if self._padded else {**kwargs, "attention_mask": None}

    def plan(self, workload: Workload, users: int) -> Plan:
        """Plans a step with batches of ``users``."""
        sizes = workload.sizes(users)
        with self._mode:
            memory, flops = probe(self._trainer, self._batch(sizes))
        return Plan(
            sizes,
            sum(group.count for group in self._trainer.groups),
            count_values(self._trainer.model.parameters()),
            memory,
            flops,
            self.cache_bytes(workload.n_items),
            workload.n_items,
            step_work(self._trainer.model, memory, flops),
        )

    def peak(self, workload: Workload, users: int) -> int:
        """Bytes at the peak of a step with batches of ``users``; a plan comes first."""
        with self._mode:
            return step_account(self._trainer, self._batch(workload.sizes(users))).peak_bytes

    def cache_bytes(self, n_items: int) -> int | None:
        """Items × kept layers × width × bytes of a number, over the modalities."""
        if not reads_cache(self._method):
            return None
        itemsize = np.dtype(self._cell.training.cache_dtype).itemsize
        return sum(n_items * kept * width * itemsize for kept, width in self._cached(self._method).values())

    def _cached(self, method: HiddenMethod) -> dict[str, tuple[int, int]]:
        """Modality -> kept layers and width."""
        return {m: (len(kept), self._sources[m].width) for m, kept in kept_layers(method, self._sources).items()}

    def _batch(self, sizes: Sizes) -> TrainBatch:
        """A batch without contents; sizes and types are those that feed and trainer make."""
        self._padded = sizes.padded
        return TrainBatch(
            self._inputs(sizes),
            torch.empty(sizes.users, MAX_INPUTS + 1, dtype=torch.int64),
            torch.empty(sizes.inputs, dtype=torch.int64),
            torch.empty(sizes.items),
        )

    def _inputs(self, sizes: Sizes) -> dict[str, Tensor]:
        n = sizes.items
        if reads_cache(self._method):
            dtype = getattr(torch, self._cell.training.cache_dtype)
            shapes = self._cached(self._method)
            return {HIDDEN_KEY.format(m): torch.empty(n, *shape, dtype=dtype) for m, shape in shapes.items()}
        inputs = {}
        if "image" in self._sources:
            size = self._sources["image"].preprocessing.image_size
            assert size is not None
            inputs["pixels"] = torch.empty(n, size, size, 3, dtype=torch.uint8)
        if "text" in self._sources:
            text = self._sources["text"].preprocessing
            tokens = text.pad_to or min(sizes.tokens, text.positions or sizes.tokens)
            for key in ("input_ids", "attention_mask"):
                inputs[key] = torch.empty(n, tokens, dtype=torch.int64)
        return inputs


def _emptied(model: Recommender, groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """Moves a model from the meta device to empty tensors; the groups with the parameters that it has then."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    to_empty(model, CPU)
    now = dict(model.named_parameters())
    return tuple(
        dataclasses.replace(group, parameters=tuple(now[names[id(p)]] for p in group.parameters)) for group in groups
    )


def planned(cell: Cell) -> dict[str, Any]:
    """The ``plan`` entry of a record: what would have been said beforehand of the step that a cell is probed with.

    Raises:
        UserError: for anything wrong with data, models or options.
        RuntimeError: the model has an operation without a fake counterpart.
    """
    found = Planner(cell).plan(DataBatches.of(cell), cell.budget.batch_size)
    parts = found.memory.as_dict()
    return {
        "trainable_params": found.trainable_params,
        "total_params": found.total_params,
        "peak_memory_bytes": parts.pop("peak_bytes"),
        **parts,
        "flops_forward": found.flops.forward,
        "flops_backward": found.flops.backward,
        "cache_bytes": found.cache_bytes,
    }


def step_work(model: nn.Module, memory: MemoryAccount, flops: Flops) -> tuple[Work, Work, Work]:
    """What forward, backward and update of a step cannot do without, for a bound from below.

    Forward reads every weight once, lookup tables excepted, and writes what is kept for backward; backward reads that
    and writes the gradients; the update is traffic alone. Everything else (temporaries, inputs, weights read again,
    results that pass through memory more than once) is left out. What stays in the card's caches from one stretch to
    the next is not: it is small against any step that is worth planning.

    Args:
        memory: the account of the step. What is live at its peak of what backward needs may be less than all of it.
    """
    tables = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    read = sum(part.nbytes for p in model.parameters() if id(p) not in tables for part in storage_tensors(p))
    trained = [p for p in model.parameters() if p.requires_grad]
    return (
        Work(flops.forward, read + memory.activations),
        Work(flops.backward, memory.activations + sum(p.nbytes for p in trained)),
        Work(0, ADAM_BYTES * sum(p.numel() for p in trained)),
    )


def largest_batch_size(peak: Callable[[int], int], limit: int, most: int, known: Mapping[int, int]) -> int | None:
    """The largest number of users with which a step stays within ``limit`` bytes.

    By bisection: the answer fits and one user more does not. Peaks grow almost in proportion, so the line through two
    of them guesses better where to cut than the middle does; every third cut is in the middle all the same, so that a
    curve that bends cannot make it slow.

    Args:
        peak: users -> bytes.
        most: the answer is at most this.
        known: users -> bytes, what is already known, of batches up to ``most``.

    Returns:
        None when not even a batch of two users fits.
    """
    peaks = dict(known)

    def fits(users: int) -> bool:
        if users not in peaks:
            peaks[users] = peak(users)
        return peaks[users] <= limit

    if not fits(SMALLEST):
        return None
    low = max(users for users in peaks if fits(users))
    high = min((users for users in peaks if not fits(users)), default=most + 1)
    cuts = 0
    while high - low > 1:
        cut = (low + high) // 2 if cuts % 3 == 2 else _crossing(peaks, low, high, limit)
        if fits(cut):
            low = cut
        else:
            high = cut
        cuts += 1
    return low


def _crossing(peaks: Mapping[int, int], low: int, high: int, limit: int) -> int:
    """Where the line through the peak of ``low`` and another one meets the limit, strictly between low and high."""
    other = high if high in peaks else max((users for users in peaks if users < low), default=0)
    slope = (peaks.get(other, 0) - peaks[low]) / (other - low)
    cut = low + int((limit - peaks[low]) / slope) if slope > 0 else (low + high) // 2
    return min(max(cut, low + 1), high - 1)
