"""torch.compile as a setting of training: what is compiled, by one rule for every method, and what is known of it.

Compiled are each layer of every encoder that runs, the head of the item encoder (of a method that reads hidden states
its whole network), and the user encoder together with the loss. Embeddings, pooling and the optimizer stay eager.
Layers go one by one for two reasons: hooks on them stay outside of what is compiled (inside, torch would keep the ones
it met first and never look again), and layers that are alike share a graph.

It happens in place, so that names, hooks and what is saved stay what they are, and after gates and probes, which are
of eager steps. Sizes are symbols, and two sizes that happen to be equal are two symbols.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from bench.models.encoders import Encoder
from bench.models.recommender import Recommender
from bench.models.structure import layers
from bench.records.record import one_line
from bench.utils.errors import UserError

# Graphs of one function. Prefixes, say, make every layer one of its own; beyond this the cell fails, where torch on its
# own would go on uncompiled after eight.
MOST_GRAPHS = 256


class StepCompiler:
    """Compiles the training step of a cell and keeps count of it; one that is off does nothing at all.

    Args:
        on: whether the cell asks for it.
        alive: called after every compilation.
    """

    def __init__(self, on: bool, alive: Callable[[], None]):
        self.on = on
        self._alive = alive
        self._started = 0.0
        # Compilations and their seconds, and how they stood when the clock started.
        self._count, self._seconds = 0, 0.0
        self._settled: tuple[int, float] | None = None
        self._counters: dict[str, int] = {}

    def compile(self, model: Recommender, encoders: Iterable[Encoder]) -> None:
        """Compiles in place; torch does the work at the first step.

        Args:
            encoders: those that run in every step, as the method left them.
        """
        if not self.on:
            return
        torch.compiler.reset()  # what another cell of this process left would count as nothing compiled
        parts: dict[int, Any] = {id(layer): layer for encoder in encoders for layer in layers(encoder.model)}
        for part in (*parts.values(), model.item_encoder.head):
            _compile(part, "forward")
        _compile(model, "loss")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around compiled steps: counts what torch compiles.

        Raises:
            UserError: something cannot be compiled, and why.
        """
        if not self.on:
            yield
            return
        import torch._dynamo as dynamo
        from torch._dynamo.callback import callback_handler
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
        from torch._inductor.exc import CppCompileError, InvalidCxxCompiler, OperatorIssue
        from torch.fx.experimental import _config as shapes

        before = _counters()
        with ExitStack() as stack:
            # Without it a batch of as many items as vectors are wide would get a graph for that size alone.
            stack.enter_context(shapes.patch(use_duck_shape=False))  # type: ignore[attr-defined]
            stack.enter_context(
                dynamo.config.patch(
                    recompile_limit=MOST_GRAPHS, fail_on_recompile_limit_hit=True, suppress_errors=False
                )
            )
            callback_handler.register_start_callback(self._begin)
            stack.callback(callback_handler.remove_start_callback, self._begin)
            callback_handler.register_end_callback(self._end)
            stack.callback(callback_handler.remove_end_callback, self._end)
            try:
                yield
            except (
                TorchDynamoException,
                FailOnRecompileLimitHit,
                CppCompileError,
                InvalidCxxCompiler,
                OperatorIssue,
            ) as error:
                cause = getattr(error, "inner_exception", error)
                if isinstance(cause, torch.OutOfMemoryError | MemoryError):
                    raise cause from error
                raise UserError(f"--compile: {type(cause).__name__}: {one_line(str(cause))}") from error
            finally:
                for name, value in _counters().items():
                    self._counters[name] = self._counters.get(name, 0) + value - before[name]

    def eager(self) -> AbstractContextManager[Any]:
        """Runs what is compiled as it was written, so that an evaluation compiles nothing of its own."""
        return torch.compiler.set_stance("force_eager") if self.on else nullcontext()

    def settle(self) -> None:
        """After a warm-up, outside of ``running``: what is compiled from here on falls into timed steps.

        Raises:
            UserError: nothing has been compiled.
        """
        if self.on and not self._counters.get("graphs"):
            raise UserError("--compile: torch found nothing to compile in a step of this method")
        self._settled = self._count, self._seconds

    @property
    def warnings(self) -> tuple[str, ...]:
        """That steps were timed which torch compiled in."""
        count, seconds = self._since()
        if not count:
            return ()
        return (f"--compile: {count} compilations of {seconds:.1f} s fell into timed steps",)

    def _since(self) -> tuple[int, float]:
        if self._settled is None:
            return 0, 0.0
        return self._count - self._settled[0], self._seconds - self._settled[1]

    def as_dict(self) -> dict[str, Any] | None:
        """The ``compile`` entry of a record; None for a cell that asks for no compilation.

        Returns:
            ``seconds`` that compiling took before the clock started; ``graphs``; ``graph_breaks``: places where torch
            had to leave one; ``from_cache``: graphs that torch's cache on disk had, which then took no compiling;
            ``timed`` and ``timed_seconds``: compilations that fell into timed steps, which have these seconds too.
            All of this process; what falls into steps before a checkpoint is told by a warning that goes with it.
        """
        if not self.on:
            return None
        count, seconds = self._since()
        return {
            "seconds": self._seconds - seconds,
            **{name: self._counters.get(name, 0) for name in ("graphs", "graph_breaks", "from_cache")},
            "timed": count,
            "timed_seconds": seconds,
        }

    def _begin(self, _: object) -> None:
        self._started = time.perf_counter()

    def _end(self, _: object) -> None:
        self._count += 1
        self._seconds += time.perf_counter() - self._started
        self._alive()


def _compile(module: nn.Module, name: str) -> None:
    # Not nn.Module.compile, which takes the hooks of the module in.
    setattr(module, name, torch.compile(getattr(module, name), dynamic=True))


def _counters() -> dict[str, int]:
    """What torch has counted in this process."""
    from torch._dynamo.utils import counters

    return {
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
        "from_cache": counters["aot_autograd"]["autograd_cache_hit"],
    }
