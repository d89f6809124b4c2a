"""Compilation of the training step with torch.compile, by one rule for every method.

Compiled are each layer of every encoder that runs, the head of the item encoder (for a method that reads hidden states
its whole network), and the user encoder together with the loss. Embeddings, pooling and the optimizer stay eager.
Layers are compiled one by one for two reasons: hooks on a layer stay outside its compiled function (torch would trace
the hooks present at first and ignore later ones), and equal layers share a graph.

Modules are compiled in place, which keeps parameter names, hooks and saved files the same, and after sanity checks and
probes, which run eager steps. Sizes are symbolic, and two sizes that happen to be equal get two symbols.
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

# Largest number of graphs of one function; with prefixes, for example, every layer needs its own graph. Beyond it the
# cell fails; torch by default continues without compilation after eight graphs.
MAX_GRAPHS = 256


class StepCompiler:
    """Compiles the training step of a cell and counts compilations.

    Args:
        on: True if the cell asks for compilation; if False, all methods do nothing.
        alive: heartbeat, called after every compilation.
    """

    def __init__(self, on: bool, alive: Callable[[], None]):
        self.on = on
        self._alive = alive
        self._started = 0.0
        # Number of compilations and their seconds: so far, and at the end of the warm-up.
        self._count, self._seconds = 0, 0.0
        self._at_warm_up: tuple[int, float] | None = None
        self._counters: dict[str, int] = {}

    def compile(self, model: Recommender, encoders: Iterable[Encoder]) -> None:
        """Mark the parts of a model for compilation, in place; torch compiles them in the first step.

        Args:
            model: recommender of the cell.
            encoders: encoders that run in every step, after the method has changed them.
        """
        if not self.on:
            return
        torch.compiler.reset()  # graphs of an earlier cell in this process would be reused and not counted
        parts: dict[int, Any] = {id(layer): layer for encoder in encoders for layer in layers(encoder.model)}
        for part in (*parts.values(), model.item_encoder.head):
            _compile(part, "forward")
        _compile(model, "loss")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context for compiled steps, in which compilations are counted.

        Raises:
            UserError: a part cannot be compiled; the message has torch's reason.
            torch.OutOfMemoryError, MemoryError: a compilation failed for lack of memory.
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
            # With duck shapes a batch with as many items as the width of vectors would get a graph for that size alone.
            stack.enter_context(shapes.patch(use_duck_shape=False))  # type: ignore[attr-defined]
            stack.enter_context(
                dynamo.config.patch(recompile_limit=MAX_GRAPHS, fail_on_recompile_limit_hit=True, suppress_errors=False)
            )
            callback_handler.register_start_callback(self._compilation_begins)
            stack.callback(callback_handler.remove_start_callback, self._compilation_begins)
            callback_handler.register_end_callback(self._compilation_ends)
            stack.callback(callback_handler.remove_end_callback, self._compilation_ends)
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
        """Context in which compiled parts run eagerly, so that evaluations cause no compilation."""
        return torch.compiler.set_stance("force_eager") if self.on else nullcontext()

    def end_warm_up(self) -> None:
        """Mark the end of the warm-up; later compilations fall into timed steps. Call it outside of :meth:`running`.

        Raises:
            UserError: torch has compiled nothing.
        """
        if self.on and not self._counters.get("graphs"):
            raise UserError("--compile: torch found nothing to compile in a step of this method")
        self._at_warm_up = self._count, self._seconds

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warning if compilations fell into timed steps; empty if none did."""
        count, seconds = self._timed()
        if not count:
            return ()
        return (f"--compile: {count} compilations, {seconds:.1f} s together, fell into timed steps",)

    def _timed(self) -> tuple[int, float]:
        """Number and seconds of the compilations since the end of the warm-up."""
        if self._at_warm_up is None:
            return 0, 0.0
        return self._count - self._at_warm_up[0], self._seconds - self._at_warm_up[1]

    def as_dict(self) -> dict[str, Any] | None:
        """``compile`` entry of a record; None for a cell without compilation.

        Returns:
            ``seconds``: time of the compilations before the timed steps; ``graphs``: number of graphs;
            ``graph_breaks``: number of places where torch had to leave a graph; ``from_cache``: number of graphs that
            were in torch's cache on disk and not compiled; ``timed`` and ``timed_seconds``: compilations in timed
            steps, whose times include these seconds. The values are of this process; compilations in the timed steps of
            an earlier process are in the warnings that its checkpoint keeps.
        """
        if not self.on:
            return None
        count, seconds = self._timed()
        return {
            "seconds": self._seconds - seconds,
            **{name: self._counters.get(name, 0) for name in ("graphs", "graph_breaks", "from_cache")},
            "timed": count,
            "timed_seconds": seconds,
        }

    def _compilation_begins(self, _: object) -> None:
        self._started = time.perf_counter()

    def _compilation_ends(self, _: object) -> None:
        self._count += 1
        self._seconds += time.perf_counter() - self._started
        self._alive()


def _compile(module: nn.Module, name: str) -> None:
    # nn.Module.compile would compile the hooks of the module too.
    setattr(module, name, torch.compile(getattr(module, name), dynamic=True))


def _counters() -> dict[str, int]:
    """Torch's counters of this process: graphs, graph breaks and graphs from the cache on disk."""
    from torch._dynamo.utils import counters

    return {
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
        "from_cache": counters["aot_autograd"]["autograd_cache_hit"],
    }
