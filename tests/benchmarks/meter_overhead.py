"""What the meters themselves cost: training steps with all of them on against steps with all of them off.

    python -m tests.benchmarks.meter_overhead                       the fastest method of the default preset
    python -m tests.benchmarks.meter_overhead --method lora --pairs 40

Short blocks of steps alternate in one process, and each block with meters has one without beside it that trains on the
same batches, so that what the machine does meanwhile falls on both. A step is timed from outside, from one end to the
next, the same way for both; so everything that a meter does in the loop is in it. What meters do once per training
(the two looks at the whole machine, starting the sampler's thread) is timed apart.

On a busy machine with few cores set OMP_NUM_THREADS=1: threads that wait for each other while somebody else has their
core make a step hundreds of times longer, and nothing can be told from that.

Exit status: 0, or 1 when the whole interval lies above the target.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.cell.assemble import Assembly, assemble
from bench.config.cells import Cell, cells
from bench.config.matrix import parse, read_preset
from bench.data.batches import epoch_batches, log_popularity
from bench.launch.local import resolve_device
from bench.measure.clock import StepClock
from bench.measure.training_meters import TrainingMeters
from bench.training.budget import Budget
from bench.training.loop import Trainer, TrainingData, TrainingHooks, train
from bench.utils.errors import UserError

TARGET = 0.01
RESAMPLES = 2000
# The first step of a block has no end before it to be timed from; it also warms up what the last block left cold.
UNTIMED = 1
Seconds = NDArray[np.float64]
Block = Callable[[bool, int], Seconds]
Meters = Callable[[], AbstractContextManager[StepClock]]


@dataclass(frozen=True)
class Overhead:
    """The result.

    Attributes:
        share: how much longer a step takes with meters, as a part of one without; from the median of the pairs'
            ratios, each of the median step with meters to the median step without.
        low, high: 95 % bootstrap interval of ``share`` over pairs.
        step_on, step_off: median step with and without meters, seconds.
        once: seconds that the meters take once per training, the median.
    """

    method: str
    device: str
    pairs: int
    steps: int
    share: float
    low: float
    high: float
    step_on: float
    step_off: float
    once: float

    @property
    def verdict(self) -> str:
        """What the interval says about the target."""
        if self.high <= TARGET:
            return f"at most {TARGET:.0%}: shown"
        if self.low > TARGET:
            return f"at most {TARGET:.0%}: missed"
        return f"at most {TARGET:.0%}: not shown by this run, the interval is too wide"


def ratio_of_medians(on: list[Seconds], off: list[Seconds], seed: int = 0) -> tuple[float, float, float]:
    """The median over pairs of blocks of the ratio of their medians, with a 95 % bootstrap interval over pairs.

    Args:
        on, off: per block its steps, seconds; blocks of a pair have one place.

    Returns:
        ratio, lower and upper end.
    """
    ratios = np.array([np.median(a) / np.median(b) for a, b in zip(on, off, strict=True)])
    drawn = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)


def alternate(block: Block, pairs: int) -> tuple[list[Seconds], list[Seconds]]:
    """Runs the blocks of all pairs, on-off and off-on by turns, so that a drift favours neither.

    Args:
        block: whether with meters, number of the pair -> seconds of its steps.
    """
    on: list[Seconds] = []
    off: list[Seconds] = []
    for pair in range(pairs):
        for metered in (True, False) if pair % 2 == 0 else (False, True):
            (on if metered else off).append(block(metered, pair))
    return on, off


class StepEnds(TrainingHooks):
    """Notes when each step has ended, in nanoseconds."""

    def __init__(self, clock: StepClock, ends: list[int]):
        super().__init__(clock)
        self.ends = ends

    def report(self, event: dict[str, Any]) -> None:
        """Called after every step and every evaluation."""
        if event["event"] == "step":
            self.ends.append(time.perf_counter_ns())


class Bench:
    """One assembled cell whose training loop can be run in short blocks.

    Args:
        cell: what to train.
        steps: timed steps per block.
        meters: the meters that are on; those of a cell's training unless a test brings others.
    """

    def __init__(self, cell: Cell, steps: int, meters: Meters | None = None):
        self.cell, self.steps = cell, steps
        self.device = torch.device(cell.device)
        self.assembly = assemble(cell, self.device)
        self.trainer = Trainer(self.assembly.model, self.assembly.groups, cell.training, cell.precision, self.device)
        self.popularity = log_popularity(self.assembly.data.splits)
        self.meters: Meters = meters if meters is not None else lambda: all_meters(self.assembly, self.device)
        self.once: list[float] = []

    def block(self, metered: bool, pair: int) -> Seconds:
        """Trains one untimed and ``steps`` timed steps; gives the seconds from the end of each to that of the next."""
        splits, size = self.assembly.data.splits, self.cell.budget.batch_size
        length = self.steps + UNTIMED
        epochs = (epoch_batches(splits, size, self.cell.seed, epoch) for epoch in count(pair + 1))
        ends: list[int] = []
        with ExitStack() as stack:
            before = time.perf_counter()
            clock = stack.enter_context(self.meters()) if metered else StepClock(self.device, enabled=False)
            ready = time.perf_counter()
            train(
                self.trainer,
                TrainingData(islice(chain.from_iterable(epochs), length), self.assembly.feed, self.popularity),
                Budget(limit_steps=length, limit_seconds=None, steps_per_epoch=length),
                StepEnds(clock, ends),
            )
            done = time.perf_counter()
        if metered:
            self.once.append(ready - before + time.perf_counter() - done)
        return np.diff(np.array(ends, dtype=np.float64))[UNTIMED - 1 :] * 1e-9


@contextmanager
def all_meters(assembly: Assembly, device: torch.device) -> Iterator[StepClock]:
    """The meters that a cell has on while it trains: clock, watched backbones, NVML on a GPU, the machine."""
    with ExitStack() as stack:
        clock = StepClock(device)
        for encoder in assembly.encoders:
            stack.enter_context(clock.watch(encoder))
        stack.enter_context(TrainingMeters(device))
        yield clock


def measure(cell: Cell, pairs: int, steps: int) -> Overhead:
    """Runs the blocks of a cell and sums up."""
    bench = Bench(cell, steps)
    for metered in (True, False):
        bench.block(metered, 0)
    bench.once.clear()
    on, off = alternate(bench.block, pairs)
    ratio, low, high = ratio_of_medians(on, off)
    return Overhead(
        method=cell.method.name,
        device=cell.device,
        pairs=pairs,
        steps=steps,
        share=ratio - 1,
        low=low - 1,
        high=high - 1,
        step_on=float(np.median(np.concatenate(on))),
        step_off=float(np.median(np.concatenate(off))),
        once=float(np.median(bench.once)),
    )


def choose(preset: str, method: str, device: str) -> Cell:
    """The cell of a method in a preset, with its first seed.

    Raises:
        UserError: unknown preset, method or device.
    """
    matrix = parse(read_preset(preset) | {"device": device}, f"preset {preset}", {("device",): "--device"})
    for cell in cells(matrix, resolve_device(matrix.device)):
        if cell.method.name == method:
            return cell
    raise UserError(f"--method {method}: preset {preset} has {', '.join(m.name for m in matrix.methods)}")


def show(found: Overhead) -> str:
    """The result in a few lines."""
    return "\n".join(
        (
            f"{found.method} on {found.device}: {found.pairs} pairs of blocks of {found.steps} steps",
            f"  a step without meters  {found.step_off * 1e3:9.3f} ms (median)",
            f"  a step with meters     {found.step_on * 1e3:9.3f} ms (median)",
            f"  overhead               {found.share:+9.2%} (95 % interval {found.low:+.2%} to {found.high:+.2%})",
            f"  once per training      {found.once * 1e3:9.3f} ms",
            f"  {found.verdict}",
        )
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


_positive.__name__ = "number"  # argparse says "invalid number value"


def main(arguments: list[str] | None = None) -> int:
    """Entry point; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.meter_overhead",
        description="What the meters add to a training step, measured in alternating blocks in one process.",
        epilog="example: python -m tests.benchmarks.meter_overhead --pairs 100 --json",
    )
    parser.add_argument("--preset", default="default", help="recipe that the method is taken from (default: default)")
    parser.add_argument("--method", default="iisan-cached", help="default: iisan-cached, whose steps are the shortest")
    parser.add_argument("--pairs", type=_positive, default=150, metavar="N", help="pairs of blocks (default: 150)")
    parser.add_argument("--steps", type=_positive, default=10, metavar="N", help="timed steps a block (default: 10)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", action="store_true", help="one JSON value on standard output and nothing else")
    args = parser.parse_args(arguments)
    try:
        found = measure(choose(args.preset, args.method, args.device), args.pairs, args.steps)
    except UserError as error:
        print(f"overhead: {error}", file=sys.stderr)
        return 2
    facts: dict[str, Any] = dataclasses.asdict(found) | {"target": TARGET, "verdict": found.verdict}
    print(json.dumps(facts, indent=1) if args.json else show(found))
    return 1 if found.low > TARGET else 0


if __name__ == "__main__":
    sys.exit(main())
