"""The lines of a card on records that are made up: all of them hold, and each falls short when its figure does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.records.columns import STEPS as STEP_COLUMNS
from reports.load.run_folders import Record, load_run
from tests.gpu import runs as making
from tests.gpu.checks import cached, cells, commands, memory, options
from tests.gpu.line import NEEDS_CARD, CheckError
from tests.gpu.runs import METHODS, Pace, Runs
from tests.reports.factory import make_run

GIB = 2**30
STEPS = 40
LOSSES = [5 - 0.01 * step for step in range(STEPS)]


class MadeUp(Runs):
    """Runs of a card that were never made; a test changes their records."""

    def __init__(self, base: Mapping[str, Record], folder: Path):
        self.dry, self.scale, self.folder = False, making.PAPER, folder
        self.made: dict[str, dict[str, Record]] = {}
        for name in ("cells", "cudnn", "found", "killed", "first", "out"):
            self.made[name] = {
                method: replace(record, path=folder / name / method / "record.json") for method, record in base.items()
            }
            for method in METHODS:
                (folder / name / method).mkdir(parents=True)
                self.losses(name, method, LOSSES)
        self.change("killed", "iisan-cached", resumed={"times": 1})
        self.change("out", "fft", row={"status": "oom", "error": "CUDA out of memory"})
        self.change("first", "fft", row={"steps": 8})
        self.losses("first", "fft", LOSSES[:8])
        self.commands: list[list[str]] = []
        self.printed, self.status = "", 0

    def change(self, run: str, method: str, **parts: Mapping[str, Any]) -> None:
        record = self.made[run][method]
        changed = {name: {**getattr(record, name), **values} for name, values in parts.items()}
        self.made[run][method] = replace(record, **changed)

    def losses(self, run: str, method: str, values: list[float], phase: float = 0.245) -> None:
        """Steps of a second with four phases of equal length, and these losses."""
        lines = [f"1,{n},1.0,{phase},{phase},,{phase},{phase},,{loss}" for n, loss in enumerate(values, start=1)]
        self.made[run][method].steps_path.write_text("\n".join([",".join(STEP_COLUMNS), *lines]), encoding="utf-8")

    def first(self) -> Pace:
        return Pace(self.made["first"], 32, 30.0, 0.2)

    def cells(self) -> Mapping[str, Record]:
        return self.made["cells"]

    def found(self) -> Mapping[str, Record]:
        return self.made["found"]

    def cudnn(self) -> Mapping[str, Record]:
        return self.made["cudnn"]

    def killed(self) -> Mapping[str, Record]:
        return self.made["killed"]

    def out_of_memory(self) -> Mapping[str, Record]:
        return self.made["out"]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self.commands.append(list(arguments))
        return subprocess.CompletedProcess(arguments, self.status, self.printed, "error: it cannot\n")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Record]:
    """A consistent record of each method."""
    row = {"steps": STEPS, "train_seconds": 8.0, "nvml_process_bytes": 9 * GIB, "peak_reserved_bytes": 8 * GIB,
           "peak_allocated_bytes": 7 * GIB, "peak_memory_bytes": 9 * GIB, "memory_source": "nvml_process_bytes",
           "precision": "bf16"}  # fmt: skip
    phases = {"data": 0.01, "transfer": 0.02, "forward": 0.4, "backward": 0.5, "optimizer": 0.06, "backbone": None}
    nvml = {"energy_joules": 2200.0, "energy_source": "counter", "power_mean_watts": 250.0, "seconds": 8.0}
    records = load_run(make_run(tmp_path_factory.mktemp("made-up") / "run", METHODS, [0], **row)).records
    account, plan = {"peak_bytes": 6 * GIB}, {"peak_memory_bytes": int(5.5 * GIB)}
    parts: dict[str, Any] = {"memory": account, "plan": plan, "nvml": nvml, "steps": {"phases": phases}}
    return {record.row["method"]: replace(record, **parts) for record in records}


@pytest.fixture
def card(base: Mapping[str, Record], tmp_path: Path) -> MadeUp:
    return MadeUp(base, tmp_path)


def statuses(runs: Runs, lines: Callable[..., Any]) -> list[str]:
    return [line.status for line in lines(runs)]


OF_A_METHOD = [partial(lines, method="lora") for lines in cells.LINES.values()]
OF_A_CARD = [*OF_A_METHOD, cached.cache, cached.resumed, options.cudnn, options.fp16, memory.out_of_memory]


@pytest.mark.parametrize("lines", OF_A_CARD, ids=lambda lines: getattr(lines, "func", lines).__name__)
def test_consistent_figures_are_ok(card: MadeUp, lines: Callable[..., Any]) -> None:
    assert set(statuses(card, lines)) == {"ok"}


def test_a_dry_check_names_the_lines_that_need_a_card(card: MadeUp) -> None:
    card.dry = True
    skipped = [line for lines in OF_A_CARD for line in lines(card) if line.status == "skipped"]
    assert {line.reason for line in skipped if not line.figure} == {NEEDS_CARD}
    assert [line.what for line in skipped if line.figure] == ["lora: data and transfer"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"nvml_process_bytes": 7 * GIB}, ["failed", "ok", "ok"]),
        ({"peak_reserved_bytes": 6 * GIB}, ["ok", "failed", "ok"]),
        ({"peak_allocated_bytes": 5 * GIB}, ["ok", "ok", "failed"]),
        ({"nvml_process_bytes": None}, ["skipped", "ok", "ok"]),
    ],
)
def test_memory_in_the_wrong_order(card: MadeUp, row: dict[str, Any], expected: list[str]) -> None:
    card.change("cells", "lora", row=row)
    assert statuses(card, partial(cells.memory, method="lora")) == expected


@pytest.mark.parametrize(("phase", "expected"), [(0.2424, "failed"), (0.2426, "ok"), (0.2574, "ok"), (0.26, "failed")])
def test_phases_that_miss_the_step(card: MadeUp, phase: float, expected: str) -> None:
    card.losses("cells", "lora", LOSSES, phase)
    assert statuses(card, partial(cells.phases, method="lora")) == [expected]


@pytest.mark.parametrize(("data", "transfer", "expected"), [(0.03, 0.019, "ok"), (0.03, 0.021, "failed"),
                                                           (0.049, None, "ok")])  # fmt: skip
def test_steps_that_wait_for_data(card: MadeUp, data: float, transfer: float | None, expected: str) -> None:
    card.change("cells", "lora", steps={"phases": {"data": data, "transfer": transfer}})
    assert statuses(card, partial(cells.loading, method="lora")) == [expected]


@pytest.mark.parametrize(
    ("nvml", "expected"),
    [
        ({"energy_joules": 2301.0}, "failed"),
        ({"energy_joules": 2299.0}, "ok"),
        ({"energy_joules": 1699.0}, "failed"),
        ({"energy_joules": None, "energy_source": None}, "skipped"),
        ({"energy_source": "power"}, "skipped"),  # it would be compared with itself
        ({"power_mean_watts": None}, "skipped"),
    ],
)
def test_energy_against_power(card: MadeUp, nvml: dict[str, Any], expected: str) -> None:
    card.change("cells", "lora", nvml=nvml)
    assert statuses(card, partial(cells.energy, method="lora")) == [expected]


@pytest.mark.parametrize(("planned", "expected"), [(0.84, "failed"), (0.86, "ok"), (1.14, "ok"), (1.16, "failed")])
def test_plan_against_the_account(card: MadeUp, planned: float, expected: str) -> None:
    card.change("cells", "lora", plan={"peak_memory_bytes": int(planned * 6 * GIB)})
    assert statuses(card, partial(cells.plan, method="lora")) == [expected]


def test_a_cell_that_did_not_end_ok_has_no_figures(card: MadeUp) -> None:
    card.change("cells", "lora", row={"status": "oom", "error": "CUDA out of memory"})
    for lines in OF_A_METHOD:
        with pytest.raises(CheckError, match="ended as oom: CUDA out of memory"):
            list(lines(card))


@pytest.mark.parametrize("name", ["peak_memory_bytes", "peak_reserved_bytes", "peak_allocated_bytes"])
def test_peaks_that_depend_on_who_built_the_cache(card: MadeUp, name: str) -> None:
    for apart, expected in ((64, "ok"), (65, "failed")):
        card.change("found", "iisan-cached", row={name: card.made["cells"]["iisan-cached"].row[name] - apart * 2**20})
        assert sorted(statuses(card, cached.cache)) == sorted(["ok", "ok", expected])
    card.change("found", "iisan-cached", row={name: None})
    with pytest.raises(CheckError, match=name):
        list(cached.cache(card))


def test_a_cell_that_was_not_resumed_or_has_other_losses(card: MadeUp) -> None:
    card.losses("killed", "iisan-cached", [*LOSSES[:-1], 1.011 * LOSSES[-1]])
    card.change("killed", "iisan-cached", resumed={"times": 0}, row={"steps": STEPS - 1})
    assert statuses(card, cached.resumed) == ["failed", "failed", "failed"]


def test_losses_of_toys_are_equal_to_the_last_digit(card: MadeUp) -> None:
    card.dry = True
    card.losses("killed", "iisan-cached", [*LOSSES[:-1], LOSSES[-1] + 1e-9])
    assert statuses(card, cached.resumed) == ["ok", "ok", "failed"]


def test_cudnns_attention_with_other_losses_or_faster_than_torchs(card: MadeUp) -> None:
    card.losses("cudnn", "lora", [1.03 * loss for loss in LOSSES])
    for name, seconds in (("cells", 0.106), ("cudnn", 0.1)):
        card.change(name, "lora", row={"step_seconds_median": seconds})
    assert statuses(card, options.cudnn) == ["failed", "failed"]


def test_fp16_with_other_losses_or_fewer_steps(card: MadeUp) -> None:
    card.losses("first", "fft", [1.03 * loss for loss in LOSSES[:7]])
    card.change("first", "fft", row={"steps": 7})
    assert statuses(card, options.fp16) == ["failed", "failed"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("ok", "ok", ["failed", "ok"]), ("oom", "oom", ["ok", "failed"]), ("failed", "failed", ["failed", "failed"])],
)
def test_memory_that_does_not_run_out_or_runs_out_twice(
    card: MadeUp, first: str, second: str, expected: list[str]
) -> None:
    card.change("out", "fft", row={"status": first})
    card.change("out", "iisan-cached", row={"status": second})
    assert statuses(card, memory.out_of_memory) == expected


@pytest.mark.parametrize(
    ("said", "code", "expected"),
    [
        ("4 passed, 164 deselected in 1.36s", 0, ["ok", "ok"]),
        ("1 failed, 3 passed in 2s", 1, ["failed", "ok"]),
        ("3 passed, 2 errors in 2s", 1, ["failed", "ok"]),
        ("5 skipped in 1.36s", 0, ["ok", "failed"]),
    ],
)
def test_tests_marked_gpu(card: MadeUp, said: str, code: int, expected: list[str]) -> None:
    card.printed, card.status = f"....\n{said}\n", code
    assert statuses(card, commands.marked_tests) == expected
    (command,) = card.commands
    marked = {Path(argument).name for argument in command if argument.endswith(".py")}
    assert {"test_clock_cuda.py", "test_nvml.py", "test_memory.py", "test_environment.py"} <= marked


def test_findings_of_doctor(card: MadeUp) -> None:
    found = {"check": "driver", "level": "wrong", "finding": "none"}
    card.printed = json.dumps([found, {**found, "level": "warning"}])
    (line,) = commands.doctor(card)
    assert (line.figure, line.status, line.reason) == ("1", "failed", "driver: none")
    card.printed = "[]"
    assert statuses(card, commands.doctor) == ["ok"]


@pytest.mark.parametrize(("share", "expected"), [(0.009, "ok"), (0.011, "failed"), (-0.002, "ok")])
def test_overhead_of_the_meters(card: MadeUp, share: float, expected: str) -> None:
    card.change("found", "iisan-cached", row={"step_seconds_median": 0.02})
    card.printed = json.dumps({"share": share, "low": share - 0.01, "high": share + 0.01})
    (line,) = commands.meters(card)
    assert line.status == expected
    pairs = int(card.commands[0][card.commands[0].index("--pairs") + 1])
    assert pairs * 2 * 11 * 0.02 == pytest.approx(45, rel=0.02)  # seconds


@pytest.mark.parametrize("lines", [commands.marked_tests, commands.doctor, commands.meters])
def test_a_command_that_ends_with_another_status(card: MadeUp, lines: Callable[..., Any]) -> None:
    card.status = 2
    with pytest.raises(CheckError, match="exit status 2"):
        list(lines(card))
