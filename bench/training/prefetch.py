"""Loading of the next batch in a thread, while the current training step runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch

from bench.models.recommender import TrainBatch


class Prefetch:
    """Context whose thread loads one batch ahead: the loading of batch k + 1 starts when batch k is taken.

    On CUDA the thread copies on a stream of its own, so that the copies run beside the step. Copies that do not block
    need page-locked memory (:meth:`bench.training.loop.Trainer.transfer`). Its owner is torch's allocator for such
    memory, which uses a buffer again only after an event behind the last copy from it. Two batches are on the device at
    a time: that of the step and the next one.

    An error of the thread is raised by :meth:`take` for the batch that could not be loaded, with its own traceback.
    Random numbers and the order of batches are the same as without the thread.

    Args:
        load: loads the next batch and moves it to the device; it runs in the thread, one call at a time.
        device: device of the training.
        cuda: replacement of `torch.cuda`, for tests without a GPU.

    Source: PyTorch's tutorial on `pin_memory` and `non_blocking`, and its notes on CUDA streams (`record_stream`).
    """

    def __init__(self, load: Callable[[], TrainBatch], device: torch.device, cuda: Any = None):
        self._load, self._device = load, device
        self._cuda: Any = (cuda or torch.cuda) if device.type == "cuda" else None
        self._stream = None if self._cuda is None else self._cuda.Stream(device)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        # The next batch, and the event behind its copies; None on a CPU.
        self._next: Future[tuple[TrainBatch, Any]]
        self._copied: Any = None

    def __enter__(self) -> Prefetch:
        """Start the thread with the first batch."""
        self._next = self._thread.submit(self._loaded)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the thread; the batch that it loads at this moment is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def take(self) -> TrainBatch:
        """The next batch, as soon as it is loaded; on CUDA its copies may still run, see :meth:`receive`."""
        batch, self._copied = self._next.result()
        self._next = self._thread.submit(self._loaded)
        return batch

    def receive(self, batch: TrainBatch) -> None:
        """Let the current stream wait for the copies of the batch that was taken last; does nothing on a CPU."""
        if self._copied is None:
            return
        current = self._cuda.current_stream(self._device)
        current.wait_event(self._copied)
        for tensor in (*batch.inputs.values(), batch.items, batch.positions, batch.log_popularity):
            tensor.record_stream(current)  # otherwise the next copy may overwrite the tensor while the step reads it

    def _loaded(self) -> tuple[TrainBatch, Any]:
        if self._stream is None:
            return self._load(), None
        with self._cuda.stream(self._stream):
            return self._load(), self._stream.record_event()
