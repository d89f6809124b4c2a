"""How a cell ends: each outcome provoked, told from the others, and recorded with what there was by then."""

import dataclasses
import errno
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from bench.cell.failure import classify_failure
from bench.cell.run_cell import CellHooks, CellRun, run_cell
from bench.training.loop import Diverged, Evaluation, Training
from bench.utils.errors import UserError
from tests.tiny import cell_of

CPU = torch.device("cpu")
CARD_FULL = (
    "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 79.10 GiB, 640.00 MiB is free. "
    "Including non-PyTorch memory, this process has 78.47 GiB memory in use."
)
Poison = Callable[[Any], object]


def caught(fail: Callable[[], object]) -> Exception:
    try:
        fail()
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


def test_the_host_really_refuses() -> None:
    for fail, requested in ((lambda: torch.empty(2**50), 2**52), (lambda: bytearray(2**60), None)):
        outcome = classify_failure(caught(fail), CPU)
        assert outcome.status == "oom-host"
        assert outcome.entries["oom"]["requested_bytes"] == requested
        assert outcome.entries["oom"]["peak_rss_bytes"] > 2**20
        assert outcome.entries["oom"]["device_bytes"] is None


@pytest.mark.parametrize(
    ("error", "status", "requested"),
    [
        (torch.OutOfMemoryError(CARD_FULL), "oom", 3 * 2**29),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512 bytes."), "oom", 512),
        (torch.OutOfMemoryError("no more"), "oom", None),
        (RuntimeError("CUDA error: out of memory\nCompile with ..."), "oom", None),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom", None),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), "oom", None),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"), "oom-host", None),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "oom", None),
        (RuntimeError("CUDA error: CUSOLVER_STATUS_ALLOC_FAILED when calling `f(handle)`"), "oom", None),
        (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), "oom", None),
        (RuntimeError("CUDA error: CURAND_STATUS_ALLOCATION_FAILED"), "oom", None),
        (RuntimeError("CUDA driver error: out of memory"), "oom", None),
        (RuntimeError("Triton Error [CUDA]: out of memory"), "oom", None),
        (RuntimeError("cuMemCreate failed: CUDA_ERROR_OUT_OF_MEMORY"), "oom", None),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), "failed", None),
        (RuntimeError("CUDA driver error: invalid argument"), "failed", None),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "oom-host", None),
        (OSError(errno.ENOSPC, "No space left on device"), "failed", None),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "failed", None),
        (ValueError("7 is no number"), "failed", None),
    ],
)
def test_errors_are_told_apart(error: Exception, status: str, requested: int | None) -> None:
    outcome = classify_failure(error, CPU)
    assert outcome.status == status
    assert outcome.entries.get("oom", {}).get("requested_bytes") == requested
    assert ("oom" in outcome.entries) == (status != "failed")


def test_a_full_card_while_a_step_is_compiled() -> None:
    """The compiler wraps the error of Triton in one of its own, with its text."""

    class BackendCompilerFailed(Exception):
        pass

    error = BackendCompilerFailed("backend='inductor' raised:\nRuntimeError: Triton Error [CUDA]: out of memory")
    assert classify_failure(error, CPU).status == "oom"


def test_a_cell_computes_on_the_card_that_it_names(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever takes the current device without being told, such as Triton, takes the cell's."""
    chosen: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setattr("bench.cell.run_cell.PHASES", ())
    monkeypatch.setattr("bench.cell.run_cell.record_of", lambda run: {"row": {}})
    for device, expected in (("cpu", []), ("cuda:1", [torch.device("cuda:1")])):
        cell = dataclasses.replace(cell_of("frozen", model_folders), device=device)
        CellRun(cell, tmp_path, lambda _: None).run()
        assert chosen == expected


def test_an_error_made_for_users_says_no_type() -> None:
    assert classify_failure(UserError("--data-dir x: no such folder"), CPU).error == "--data-dir x: no such folder"
    assert classify_failure(KeyError("x"), CPU).error == "KeyError: 'x'"


def after_the_first_epoch(monkeypatch: pytest.MonkeyPatch, poison: Poison, evaluation: int = 1) -> None:
    """Does something at an evaluation, once it is over."""
    real, seen = CellHooks.validate, []

    def validate(self: CellHooks) -> tuple[float, float]:
        found = real(self)
        seen.append(found)
        if len(seen) == evaluation:
            poison(self.run.trainer)
        return found

    monkeypatch.setattr(CellHooks, "validate", validate)


def run(model_folders: dict[str, Path], folder: Path) -> dict[str, Any]:
    cell = cell_of("frozen", model_folders, budget={"epochs": 3, "batch_size": 16})
    record = run_cell(cell, folder, lambda _: None)
    assert json.loads((folder / "record.json").read_text())["row"]["status"] == record["row"]["status"]
    return record


def test_a_full_card_is_recorded_with_what_was_planned(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(model_folders, tmp_path / "whole")

    def fail(_: object) -> None:
        raise torch.OutOfMemoryError(CARD_FULL)

    after_the_first_epoch(monkeypatch, fail, evaluation=2)
    record = run(model_folders, tmp_path / "full")
    assert record["row"]["status"] == "oom"
    assert record["row"]["error"].startswith("CUDA out of memory. Tried to allocate 1.50 GiB")
    assert record["oom"]["requested_bytes"] == 3 * 2**29
    assert record["oom"]["peak_allocated_bytes"] is None  # there is no card, so nothing is known of it
    assert record["oom"]["plan"]["peak_memory_bytes"] == whole["row"]["peak_memory_bytes"]
    assert record["curve"][0]["loss"] == whole["curve"][0]["loss"]
    assert len(record["curve"]) == 1
    assert list(pd.read_csv(tmp_path / "full" / "steps.csv")["step"]) == [1, 2, 3, 4, 5, 6]
    assert record["steps"]["count"] == 6


def test_a_full_host_is_another_outcome(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_the_first_epoch(monkeypatch, lambda _: torch.empty(2**50))
    record = run(model_folders, tmp_path)
    assert record["row"]["status"] == "oom-host"
    assert record["oom"]["requested_bytes"] == 2**52
    assert record["oom"]["plan"]["peak_memory_bytes"] > 0


def test_a_failure_leaves_its_traceback(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    after_the_first_epoch(monkeypatch, lambda _: {}["nowhere"])
    record = run(model_folders, tmp_path)
    assert (record["row"]["status"], record["row"]["error"]) == ("failed", "KeyError: 'nowhere'")
    for text in (record["traceback"], capsys.readouterr().err):
        assert "Traceback (most recent call last)" in text
        assert "bench/cell/run_cell.py" in text
        assert "KeyError: 'nowhere'" in text


def ruin_values(trainer: Any) -> None:
    with torch.no_grad():
        trainer.parameters[0].fill_(math.inf)


def ruin_gradient(trainer: Any) -> None:
    trainer.parameters[0].register_hook(lambda gradient: gradient * math.inf)


@pytest.mark.parametrize(("ruin", "what"), [(ruin_values, "loss"), (ruin_gradient, "gradient norm")])
def test_a_training_that_diverges_keeps_what_it_had(
    ruin: Poison, what: str, model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_the_first_epoch(monkeypatch, ruin)
    record = run(model_folders, tmp_path)
    assert record["row"]["status"] == "diverged"
    assert record["row"]["hr@10"] is None
    value = record["diverged"].pop("value")
    assert not math.isfinite(float(value))
    assert record["diverged"] == {"what": what, "step": 4, "epoch": 2, "last_good_epoch": 1}
    assert record["row"]["error"] == f"{what} is {value} at step 4, in epoch 2; last good epoch: 1"
    assert [point["epoch"] for point in record["curve"]] == [1]
    steps = pd.read_csv(tmp_path / "steps.csv")
    assert list(steps["step"]) == [1, 2, 3, 4]
    assert math.isfinite(steps["loss"][3]) == (what == "gradient norm")


def test_a_gradient_that_overflows_is_part_of_finding_the_scale() -> None:
    training = Training(losses=[1.0])
    for _ in range(2):
        for _ in range(19):
            training.check(math.inf, 1, scaled=True)
        training.check(1.0, 1, scaled=True)
    for _ in range(19):
        training.check(math.nan, 1, scaled=True)
    training.curve.append(Evaluation(4, 1, 1.0, 1.0, 0.5, 0.5))
    with pytest.raises(Diverged, match=r"gradient norm is inf .* for the 20th time in a row; last good epoch: 4"):
        training.check(math.inf, 5, scaled=True)
    with pytest.raises(Diverged, match="gradient norm is nan at step 1, in epoch 1; last good epoch: none"):
        Training(losses=[1.0]).check(math.nan, 1, scaled=False)
    with pytest.raises(Diverged, match="loss is nan"):
        dataclasses.replace(training, losses=[math.nan]).check(1.0, 1, scaled=True)
