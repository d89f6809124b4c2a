"""Clock of training steps: seconds per step and per phase, summaries of steps, and warnings about them.

The phases are exclusive: time inside a watched backbone counts as `backbone` and not as `forward`, so the phases of a
step add up to its seconds, except for time between phases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from bench.records.columns import PHASES, Phase

if TYPE_CHECKING:
    import torch
    from torch import nn

Row: TypeAlias = dict[str, float | None]

DRIFT_LIMIT = 0.05
CV_LIMIT = 0.10
# With fewer steps per third a single slow step would look like a drift.
STEPS_PER_THIRD = 3


class _Timeline(Protocol):
    """Source of time marks; the seconds between two marks can be read after `finish`."""

    def start(self) -> None: ...

    def mark(self) -> Any: ...

    def finish(self) -> None: ...

    def seconds(self, begin: Any, end: Any) -> float: ...


class _HostTimeline:
    """Timeline of the host's clock."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.mark = now

    def start(self) -> None:
        """Do nothing: the host's clock needs no preparation."""

    def finish(self) -> None:
        """Do nothing: work on the host is finished when it returns."""

    def seconds(self, begin: int, end: int) -> float:
        return (end - begin) * 1e-9


class _CudaTimeline:
    """Timeline of events on the current CUDA stream; marking a phase border does not make the host wait."""

    def __init__(self, device: torch.device, cuda: Any) -> None:
        self._device = device
        self._cuda = cuda
        self._events: list[Any] = []
        self._used = 0

    def start(self) -> None:
        # Events of the last step have been read and are reused: creating an event costs more than recording it.
        self._used = 0

    def mark(self) -> Any:
        if self._used == len(self._events):
            self._events.append(self._cuda.Event(enable_timing=True))
        event = self._events[self._used]
        self._used += 1
        event.record(self._cuda.current_stream(self._device))
        return event

    def finish(self) -> None:
        self._cuda.synchronize(self._device)

    def seconds(self, begin: Any, end: Any) -> float:
        return float(begin.elapsed_time(end)) * 1e-3


class StepClock:
    """Clock of the steps of a training loop on one device; one row of seconds per step.

    On the CPU every phase border reads the host's clock. On CUDA the borders are events on the current stream, read
    after the one synchronisation that ends a step; only `data` is read from the host's clock, because waiting for a
    batch leaves no trace on a stream. Batches are loaded ahead, so `data` and `transfer` are the time for which a step
    waits for its batch, on the host and on the stream, and not the time that loading takes. Whatever makes the host
    wait inside a step (such as `loss.item()`) is an extra synchronisation that this clock cannot see: read the loss
    after the step.

    Args:
        device: device of the steps, `cpu` or `cuda`.
        enabled: False for a clock that registers no hooks, reads no time and keeps no rows.
        now: the host's clock in nanoseconds.
        cuda: replacement of `torch.cuda`, for tests without a GPU.

    Raises:
        ValueError: the device is neither `cpu` nor `cuda` and would be timed wrongly.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        enabled: bool = True,
        now: Callable[[], int] = perf_counter_ns,
        cuda: Any = None,
    ) -> None:
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"steps on a device of type {device.type!r} cannot be timed; use cpu or cuda")
        self.enabled = enabled
        self.rows: list[Row] = []
        host = _HostTimeline(now)
        self._whole: _Timeline = host
        if device.type == "cuda" and enabled:
            self._whole = _CudaTimeline(device, cuda if cuda is not None else _torch_cuda())
        self._line: dict[Phase, _Timeline] = {name: host if name == "data" else self._whole for name in PHASES}
        self._off = nullcontext()
        self._contexts = {name: _PhaseContext(self, name) for name in PHASES}
        self._stack: list[tuple[Phase, object]] = []
        self._spans: list[tuple[Phase, Any, Any]] = []
        self._begin: Any = None
        self._since: Any = None
        self._open = False

    def step(self, epoch: int, step: int) -> AbstractContextManager[None]:
        """Context that times one step and adds its row; a step that ends in an exception adds none.

        Args:
            epoch: epoch of the step, for the row.
            step: number of the step over the whole training, for the row.

        Raises:
            RuntimeError: on entering, if another step of this clock is open.
        """
        return _StepContext(self, epoch, step) if self.enabled else self._off

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """Context whose time counts as phase `name`; the time of a nested phase is not counted in the outer one.

        Raises:
            ValueError: unknown phase.
            RuntimeError: on entering, if no step is open.
        """
        if not self.enabled:
            return self._off
        if name not in self._contexts:
            raise ValueError(f"unknown phase {name!r}; the phases are {', '.join(PHASES)}")
        return self._contexts[name]

    def watch(self, module: nn.Module) -> Watch:
        """Count time inside a module as phase `backbone` whenever the module runs in the phase `forward`.

        Calls outside a step (evaluation) and in other phases (recomputation in backward) are not counted. Hooks see
        `module(...)` only: a wrapper that calls `module.forward(...)` bypasses them, so watch the wrapper instead.
        """
        if not self.enabled:
            return Watch(())

        def enter(watched: nn.Module, *_: object) -> None:
            if self._stack and self._stack[-1][0] in ("forward", "backbone"):
                self._push("backbone", watched)

        def leave(watched: nn.Module, *_: object) -> None:
            if self._stack and self._stack[-1][1] is watched:
                self._pop()

        return Watch((module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)))

    def clear(self) -> None:
        """Remove all rows so far, such as those of the warm-up."""
        self.rows.clear()

    def _start(self) -> None:
        if self._open:
            raise RuntimeError("a step was opened inside another step")
        self._open = True
        self._whole.start()
        self._begin = self._whole.mark()

    def _finish(self, epoch: int, step: int) -> None:
        end = self._whole.mark()
        self._whole.finish()
        row: Row = {"epoch": epoch, "step": step, "seconds": self._whole.seconds(self._begin, end)}
        row.update(dict.fromkeys(PHASES))
        for name, begin, until in self._spans:
            row[name] = (row[name] or 0.0) + self._line[name].seconds(begin, until)
        self.rows.append(row)

    def _reset(self) -> None:
        self._stack.clear()
        self._spans.clear()
        self._open = False

    def _push(self, name: Phase, owner: object) -> None:
        if not self._open:
            raise RuntimeError(f"phase {name!r} was opened outside a step")
        border = self._close_span()
        self._stack.append((name, owner))
        self._open_span(border)

    def _pop(self) -> None:
        border = self._close_span()
        self._stack.pop()
        self._open_span(border)

    def _close_span(self) -> tuple[_Timeline, Any] | None:
        """End the span of the running phase; the mark that ends it can begin the next span."""
        if not self._stack:
            return None
        line = self._line[self._stack[-1][0]]
        mark = line.mark()
        self._spans.append((self._stack[-1][0], self._since, mark))
        return line, mark

    def _open_span(self, border: tuple[_Timeline, Any] | None) -> None:
        if not self._stack:
            return
        line = self._line[self._stack[-1][0]]
        self._since = border[1] if border is not None and border[0] is line else line.mark()


class _StepContext:
    """Context of one step."""

    def __init__(self, clock: StepClock, epoch: int, step: int) -> None:
        self._clock, self._epoch, self._step = clock, epoch, step

    def __enter__(self) -> None:
        self._clock._start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._clock._finish(self._epoch, self._step)
        self._clock._reset()


class _PhaseContext:
    """Context of a phase; stateless, so that one object per phase serves every step."""

    def __init__(self, clock: StepClock, name: Phase) -> None:
        self._clock, self._name = clock, name

    def __enter__(self) -> None:
        self._clock._push(self._name, self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._clock._pop()


class Watch:
    """Handle of the hooks on a watched module; also a context that removes them on exit."""

    def __init__(self, handles: Sequence[torch.utils.hooks.RemovableHandle]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Remove the hooks; a second call does nothing."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> Watch:
        """Return the handle; the hooks are registered already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Remove the hooks."""
        self.remove()


def _torch_cuda() -> Any:
    import torch

    return torch.cuda


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Summary of steps for the `steps` entry of a record.

    Args:
        rows: rows of a clock, or of `steps.csv`.

    Returns:
        `count`, `median`, `q25`, `q75`, `p95` (seconds; quantiles interpolated linearly), `cv` (sample standard
        deviation over mean) and `phases`: share of each phase in the total seconds. A value is None if it is
        undefined: without rows, `cv` of a single row, a phase that no step had.
    """
    seconds = _seconds(rows)
    quantiles: list[float | None] = [None] * 4
    if seconds.size:
        quantiles = [float(value) for value in np.quantile(seconds, (0.5, 0.25, 0.75, 0.95))]
    return {
        "count": len(rows),
        **dict(zip(("median", "q25", "q75", "p95"), quantiles, strict=True)),
        "cv": _variation(seconds),
        "phases": {name: _share(rows, name, float(seconds.sum())) for name in PHASES},
    }


def drift(rows: Sequence[Row]) -> float | None:
    """Relative change of the median step time from the first to the last third of the rows; None below nine rows."""
    seconds = _seconds(rows)
    third = len(seconds) // 3
    if third < STEPS_PER_THIRD:
        return None
    first, last = float(np.median(seconds[:third])), float(np.median(seconds[-third:]))
    return (last - first) / first if first > 0 else None


def step_warnings(rows: Sequence[Row]) -> list[str]:
    """Warnings about step times: a drift of over 5 % between thirds, a coefficient of variation of over 10 %."""
    texts = []
    change = drift(rows)
    if change is not None and abs(change) > DRIFT_LIMIT:
        texts.append(
            f"step time drifted by {change:+.1%} from the first third of the steps to the last "
            f"(more than {DRIFT_LIMIT:.0%})"
        )
    variation = _variation(_seconds(rows))
    if variation is not None and variation > CV_LIMIT:
        texts.append(f"step time has a coefficient of variation of {variation:.1%} (more than {CV_LIMIT:.0%})")
    return texts


def _seconds(rows: Sequence[Row]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([row["seconds"] for row in rows], dtype=np.float64)


def _variation(seconds: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    if seconds.size < 2 or seconds.mean() <= 0:
        return None
    return float(seconds.std(ddof=1) / seconds.mean())


def _share(rows: Sequence[Row], name: Phase, total: float) -> float | None:
    taken = [value for row in rows if (value := row[name]) is not None]
    return sum(taken) / total if taken and total > 0 else None
