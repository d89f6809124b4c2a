"""Cost of a cell before it runs: exact tensor sizes of a step on fake tensors, without weights and without a GPU.

The model is built and trained by the code that a cell runs (``build_model``, ``Trainer``, ``probe``), on tensors that
have sizes and no contents, so that a plan for a large GPU fits into any host memory.

Limits: torch without CUDA has no fake CUDA tensors, so the step is planned with the operations of the CPU. On a GPU
autocast also computes in 32 bit each softmax whose model does not itself ask for it, the ``sdpa`` kernel saves other
tensors for backward, and the allocator takes more memory than the live tensors (rounding, workspaces, fragmentation,
the CUDA context).
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

from bench.cell.assemble import (
    build_model,
    kept_layers,
    load_data,
    load_encoders,
    locate_encoders,
    reads_cache,
)
from bench.cell.titles import tokenise_titles
from bench.config.cells import Cell
from bench.config.matrix import build_method
from bench.data.batches import largest_batch
from bench.data.splits import MAX_INPUTS, Splits
from bench.measure.flops import Flops
from bench.measure.memory import MemoryAccount
from bench.models.hidden_states import HIDDEN_KEY
from bench.models.quantisation import count_values, storage_tensors, to_empty
from bench.models.recommender import Recommender, TrainBatch
from bench.scoring.roofline import Work
from bench.training.loop import Trainer
from bench.training.probe import probe, step_account
from methods.base import Group, HiddenMethod

CPU = torch.device("cpu")
SMALLEST = 2
"""Users of the smallest batch that can be trained: the loss needs items of another user as negatives."""
PAPER_ITEMS = 20_314
"""Items of the IISAN paper's Scientific dataset (arXiv 2404.02059) after short sequences have been left out."""
ADAM_BYTES = 40
"""Memory traffic of an update per trained 32-bit value, in bytes: clipping reads the gradient for its norm, then reads
and writes it scaled; Adam reads weight, gradient and two moments and writes weight and moments."""


@dataclass(frozen=True)
class Sizes:
    """Size of the input of one step.

    Attributes:
        users: number of users, the rows of the batch.
        items: number of distinct items.
        inputs: number of input positions without padding.
        tokens: number of tokens of the longest title; 0 without text.
        padded: True if a title is shorter than the longest. transformers drops an attention mask without padding, which
            saves memory.
    """

    users: int
    items: int
    inputs: int
    tokens: int
    padded: bool


class Workload(Protocol):
    """Source of the sizes of a step.

    Attributes:
        name: "full" or "data".
        n_items: number of items in the catalogue.
        most_users: number of users of the largest possible batch.
    """

    name: str
    n_items: int
    most_users: int

    def sizes(self, users: int) -> Sizes:
        """Sizes of the step with the highest memory peak, for batches of ``users`` users."""


class FullBatches:
    """Worst case without data: 11 items per user, all items of a batch distinct, all titles of the maximal length.

    Args:
        max_tokens: maximal number of tokens of a title.
        n_items: number of items in the catalogue.
        most_users: number of users of the largest possible batch.
    """

    name = "full"

    def __init__(self, max_tokens: int, n_items: int = PAPER_ITEMS, most_users: int = 65_536):
        self.n_items = n_items
        self.most_users = most_users
        self._tokens = max_tokens

    def sizes(self, users: int) -> Sizes:
        """Sizes of a batch without padding."""
        return Sizes(users, users * (MAX_INPUTS + 1), users * MAX_INPUTS, self._tokens, False)


class DataBatches:
    """Sizes of a cell's probe batch: the batch of the first epoch with the most distinct items.

    Args:
        splits: user sequences.
        lengths: number of tokens per title, (items,); None without text.
        seed: seed of the cell, which determines the order of the users.
    """

    name = "data"

    def __init__(self, splits: Splits, lengths: NDArray[np.int32] | None, seed: int):
        self.n_items = len(splits.popularity)
        self.most_users = len(splits.train)
        self._splits, self._lengths, self._seed = splits, lengths, seed

    @classmethod
    def of(cls, cell: Cell) -> DataBatches:
        """Load the cell's catalogue and tokenise its titles.

        Raises:
            UserError: data or models cannot be used.
        """
        data = load_data(cell)
        text = data.sources.get("text")
        lengths = None if text is None else tokenise_titles(cell.dataset, data.catalogue, text).lengths
        return cls(data.splits, lengths, cell.seed)

    def sizes(self, users: int) -> Sizes:
        """Sizes of the probe batch."""
        batch = largest_batch(self._splits, users, self._seed)
        tokens, padded = 0, False
        if self._lengths is not None:
            lengths = self._lengths[batch.unique]
            tokens = int(lengths.max())
            padded = bool(lengths.min() < tokens)
        return Sizes(len(batch.items), len(batch.unique), len(batch.positions), tokens, padded)


@dataclass(frozen=True)
class Plan:
    """Predicted cost of one cell.

    Attributes:
        sizes: sizes of the planned step.
        trainable_params, total_params: exact numbers of values.
        memory: bytes of live tensors at the peak of a training step.
        flops: FLOPs of the step.
        cache_bytes: bytes of the hidden states of ``n_items`` items on disk, without file headers; None for a cell
            without a cache.
        n_items: number of items in the catalogue.
        work: FLOPs and memory traffic of forward, backward and update, for the roofline.
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
    """Model of one cell on fake tensors; plans steps with batches of any size.

    Raises:
        UserError: models or options cannot be used.
    """

    def __init__(self, cell: Cell):
        self._cell = cell
        self._method = build_method(cell.method, "matrix")
        # "random" needs no weight files, and fake tensors are never filled.
        self._sources = locate_encoders(cell, "random")
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._padded = True
        self._trainer = self._build()

    def _build(self) -> Trainer:
        # First on the meta device: under a fake mode peft cannot move modules and ViT cannot draw its weights.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            encoders = {} if reads_cache(self._method) else load_encoders(self._sources, self._cell)
            built = build_model(self._cell, self._method, self._sources, encoders)
        if "text" in encoders:
            encoders["text"].model.register_forward_pre_hook(self._drop_empty_mask, with_kwargs=True)
        with self._mode:
            groups = _allocate_empty(built.model, built.groups)
            return Trainer(built.model, groups, self._cell.training, self._cell.precision, CPU)

    def _drop_empty_mask(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Drop an attention mask without padding, as transformers does for real masks, whose values it can read."""
        return args, kwargs if self._padded else {**kwargs, "attention_mask": None}

    def plan(self, workload: Workload, users: int) -> Plan:
        """Plan a step with batches of ``users`` users."""
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
        """Peak bytes of live tensors in a step with batches of ``users`` users; call :meth:`plan` first."""
        with self._mode:
            return step_account(self._trainer, self._batch(workload.sizes(users))).peak_bytes

    def cache_bytes(self, n_items: int) -> int | None:
        """Bytes of the hidden-state cache: items × kept layers × width × bytes per value, summed over modalities.

        None if the method reads no cache.
        """
        if not reads_cache(self._method):
            return None
        itemsize = np.dtype(self._cell.training.cache_dtype).itemsize
        return sum(n_items * kept * width * itemsize for kept, width in self._cached_shapes(self._method).values())

    def _cached_shapes(self, method: HiddenMethod) -> dict[str, tuple[int, int]]:
        """Modality -> number of kept layers and width."""
        return {m: (len(kept), self._sources[m].width) for m, kept in kept_layers(method, self._sources).items()}

    def _batch(self, sizes: Sizes) -> TrainBatch:
        """Fake batch with the shapes and types that ``ItemFeed`` and ``Trainer.transfer`` produce."""
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
            shapes = self._cached_shapes(self._method)
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


def _allocate_empty(model: Recommender, groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """Replace a model's meta tensors by empty ones; return the groups with the model's new parameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    to_empty(model, CPU)
    allocated = dict(model.named_parameters())
    return tuple(
        dataclasses.replace(group, parameters=tuple(allocated[names[id(p)]] for p in group.parameters))
        for group in groups
    )


def plan_entry(cell: Cell) -> dict[str, Any]:
    """Make the ``plan`` entry of a record: the prediction for the cell's probe step, parts of memory in bytes.

    Raises:
        UserError: data, models or options cannot be used.
        RuntimeError: the model has an operation that fake tensors do not support.
    """
    plan = Planner(cell).plan(DataBatches.of(cell), cell.budget.batch_size)
    memory = plan.memory.as_dict()
    return {
        "trainable_params": plan.trainable_params,
        "total_params": plan.total_params,
        "peak_memory_bytes": memory.pop("peak_bytes"),
        **memory,
        "flops_forward": plan.flops.forward,
        "flops_backward": plan.flops.backward,
        "cache_bytes": plan.cache_bytes,
    }


def step_work(model: nn.Module, memory: MemoryAccount, flops: Flops) -> tuple[Work, Work, Work]:
    """Least FLOPs and memory traffic of forward, backward and update of a step, for a lower bound of its time.

    Forward reads every weight once, except lookup tables, and writes the tensors saved for backward; backward reads
    them and writes the gradients; the update is memory traffic alone. All other traffic is left out (temporaries,
    inputs, weights read again, results that pass through memory more than once). Data that stay in the GPU's caches
    from one part to the next are counted as traffic: they are few compared with any step that is worth planning.

    Args:
        model: recommender on real or fake tensors.
        memory: memory account of the step; its activations are those live at the peak, which may be fewer than all
            that backward needs.
        flops: FLOPs of the step.
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
    """Find the largest number of users for which a step stays within ``limit`` bytes.

    By bisection: the answer fits and one user more does not. Peaks grow almost in proportion to the users, so the cut
    is placed by linear interpolation; every third cut is in the middle, so that a curve that bends cannot make the
    search slow.

    Args:
        peak: function from users to peak bytes.
        limit: available bytes.
        most: largest possible answer.
        known: users -> peak bytes that are already known, of batches up to ``most``.

    Returns:
        Number of users; None if not even a batch of two users fits.
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
    """Number of users where the line through the peaks of ``low`` and another batch meets the limit.

    The result is strictly between ``low`` and ``high``.
    """
    other = high if high in peaks else max((users for users in peaks if users < low), default=0)
    slope = (peaks.get(other, 0) - peaks[low]) / (other - low)
    cut = low + int((limit - peaks[low]) / slope) if slope > 0 else (low + high) // 2
    return min(max(cut, low + 1), high - 1)
