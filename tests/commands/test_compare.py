"""Tests of the compare command: ratios by hand, thresholds with and without a supporting interval, and errors."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.commands import compare as compare_command
from bench.utils.errors import UserError
from reports.analysis.run_comparison import Ratio, RunComparison, Threshold, compare, parse_threshold
from tests.reports.factory import make_run, set_machine, write_json

METHODS = ["fft", "lora"]


def pair_of(tmp_path: Path, **second: object) -> tuple[Path, Path]:
    return tuple(  # type: ignore[return-value]
        make_run(tmp_path / name, METHODS, [0, 1], ranks=True, **arguments)  # type: ignore[arg-type]
        for name, arguments in (("a", {}), ("b", second))
    )


def slow_down(run: Path, method: str, factor: float, columns: tuple[str, ...] = ("epoch_seconds",)) -> None:
    """Multiply the times of the cells of a method."""
    for path in (run / "cells").glob(f"{method}--*/record.json"):
        record = json.loads(path.read_text())
        for column in columns:
            record["row"][column] = record["row"][column] * factor
        write_json(path, record)
        steps = pd.read_csv(path.parent / "steps.csv")
        steps["seconds"] *= factor
        steps.to_csv(path.parent / "steps.csv", index=False)


def found(comparison: RunComparison, method: str, metric: str, seed: int = 0) -> Ratio:
    (ratio,) = [one for one in comparison.ratios if (one.method, one.metric, one.seed) == (method, metric, seed)]
    return ratio


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    compare_command.add_arguments(parser)
    return compare_command.run(parser.parse_args(arguments))


def test_the_same_run_twice_is_one_everywhere(tmp_path: Path) -> None:
    first, second = pair_of(tmp_path)
    comparison = compare(first, second)
    assert len(comparison.ratios) == 4 * 5
    assert {ratio.ratio for ratio in comparison.ratios} == {1.0}
    for ratio in comparison.ratios:
        assert ratio.low is not None
        assert ratio.high is not None
        assert (ratio.low < 1 < ratio.high) if ratio.metric == "time" else (ratio.low == ratio.high == 1)
    assert comparison.notes == comparison.broken == comparison.missing == ()


def test_time_has_the_interval_of_two_means(tmp_path: Path) -> None:
    first, second = pair_of(tmp_path)
    slow_down(second, "lora", 1.2)
    ratio = found(compare(first, second), "lora", "time")
    assert ratio.ratio == pytest.approx(1.2)
    seconds = pd.read_csv(next((first / "cells").glob("lora--*--s0--*")) / "steps.csv")["seconds"]
    spread = math.sqrt(2 * (seconds.std() / seconds.mean()) ** 2 / len(seconds))
    assert ratio.low is not None
    assert ratio.high is not None
    assert (ratio.low, ratio.high) == pytest.approx((1.2 * (1 - 1.96 * spread), 1.2 * (1 + 1.96 * spread)), abs=0.006)


def test_bytes_and_parameters_are_exact(tmp_path: Path) -> None:
    first, second = pair_of(tmp_path, changes={"lora": {"peak_memory_bytes": 10, "trainable_params": 66_049}})
    comparison = compare(first, second)
    ratio = found(comparison, "lora", "params")
    assert ratio.ratio == ratio.low == ratio.high == 66_049 / 66_048
    assert found(comparison, "lora", "memory").ratio == 10 / (368 * 2**20)
    assert found(comparison, "fft", "params").ratio == 1.0


def test_accuracy_is_paired_by_user(tmp_path: Path) -> None:
    first, second = pair_of(tmp_path)
    path = next((second / "cells").glob("lora--*--s0--*"))
    ranks = pd.read_csv(path / "ranks.csv")
    hits = ranks["test_rank"] <= 10
    lost = hits & (np.arange(len(ranks)) % 5 == 0)
    ranks.loc[lost, "test_rank"] = 600
    ranks.to_csv(path / "ranks.csv", index=False)
    record = json.loads((path / "record.json").read_text())
    record["row"]["hr@10"] = float((ranks["test_rank"] <= 10).mean())
    write_json(path / "record.json", record)
    ratio = found(compare(first, second, [Threshold("hr@600", False, 0.1)]), "lora", "hr@10")
    kept = 1 - lost.sum() / hits.sum()
    assert ratio.ratio == pytest.approx(kept)
    # Users who hit before keep their hit with this probability; those who did not hit count in neither run.
    half = 1.96 * math.sqrt(kept * (1 - kept) / hits.sum())
    assert (ratio.low, ratio.high) == pytest.approx((kept - half, kept + half), abs=0.15 * half)


def test_exit_status_follows_the_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = map(str, pair_of(tmp_path))
    slow_down(Path(second), "lora", 1.2)
    assert command(first, second) == 0
    assert command(first, second, "--fail-if", "time>1.05") == 1
    assert "regression: lora--" in capsys.readouterr().out
    assert command(second, first, "--fail-if", "time>1.05") == 0
    assert command(first, second, "--fail-if", "time>1.199", "memory>1", "hr@10<0.99") == 0
    assert "no regression: no whole interval is beyond a threshold" in capsys.readouterr().out
    assert command(first, second, "--fail-if", "memory>1", "--fail-if", "time>1.05") == 1
    assert command(second, first, "--fail-if", "time<0.9") == 1


def test_json_is_all_there_is_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = map(str, pair_of(tmp_path))
    slow_down(Path(second), "fft", 1.5)
    assert command(first, second, "--fail-if", "time>1.4", "--json") == 1
    value = json.loads(capsys.readouterr().out)
    assert {entry["metric"] for entry in value["cells"]} == {"time", "params", "memory", "hr@10", "ndcg@10"}
    assert [(entry["metric"], entry["fail_if"]) for entry in value["regressions"]] == [("time", "time>1.4")] * 2


def test_a_cell_that_broke_is_a_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = map(str, pair_of(tmp_path, changes={"lora": {"status": "oom"}}))
    assert command(first, second) == 1
    captured = capsys.readouterr()
    assert captured.out.count("broken: lora--") == 2
    assert command(second, first) == 0
    assert "did not end ok in" in capsys.readouterr().err


def test_cells_in_one_run_only_are_noted(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", ["fft", "lora"], [0])
    second = make_run(tmp_path / "b", ["fft", "iisan"], [0])
    comparison = compare(first, second)
    assert {ratio.method for ratio in comparison.ratios} == {"fft"}
    assert [cell.partition("--")[0] for cell in comparison.missing] == ["lora"]
    assert [note.partition("--")[0] for note in comparison.notes] == ["cell iisan"]


def test_a_cell_that_is_missing_fails_a_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run(tmp_path / "a", ["fft", "lora", "iisan"], [0], changes={"iisan": {"status": "oom"}})
    second = make_run(tmp_path / "b", ["fft"], [0])
    assert command(str(first), str(second)) == 0
    assert command(str(first), str(second), "--fail-if", "time>1.5") == 1
    captured = capsys.readouterr()
    assert captured.out.count("missing: lora--") == 2
    assert "missing: iisan" not in captured.out
    assert "cell iisan--" in captured.err
    assert command(str(second), str(first), "--fail-if", "time>1.5") == 0
    next((second / "cells").glob("fft--*/record.json")).write_text("{")
    make_run(tmp_path / "c", ["lora"], [0])
    next((tmp_path / "c" / "cells").glob("lora--*")).rename(second / "cells" / "lora")
    assert command(str(first), str(second), "--fail-if", "time>1.5") == 1
    captured = capsys.readouterr()
    assert "missing: fft--" in captured.out
    assert "is left out: " in captured.err


def test_a_cell_that_a_threshold_cannot_judge_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = map(str, pair_of(tmp_path))
    next(Path(second).glob("cells/lora--*--s0--*/steps.csv")).unlink()
    assert command(first, second, "--fail-if", "time>1.5") == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: cell lora--")
    assert note.endswith("time has no interval, so time>1.5 was not checked")
    failed = make_run(tmp_path / "failed", METHODS, [0, 1], status="failed")
    with pytest.raises(UserError, match=r"--fail-if: no cell ended ok in .*failed, so .* cannot be judged"):
        compare(failed, Path(second), [parse_threshold("time>1.5")])


def test_nothing_in_common(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", ["fft"], [0])
    second = make_run(tmp_path / "b", ["lora"], [0])
    with pytest.raises(UserError, match=r"have no cell in common: method fft in the first, lora in the second$"):
        compare(first, second)
    with pytest.raises(UserError, match=r"have no cell in common: seed 0 in the first, 1 in the second$"):
        compare(first, make_run(tmp_path / "c", ["fft"], [1]), allow_different=True)
    many = make_run(tmp_path / "d", ["fft", "lora"], [1, 2, 3, 4], dataset="amazon")
    why = "common: dataset shop in the first, amazon in the second; seed 0 in the first, 1, 2, 3 and 1 more in the sec"
    with pytest.raises(UserError, match=why):
        compare(first, many)
    crossed = make_run(tmp_path / "e", ["lora"], [0])
    next((make_run(tmp_path / "f", ["fft"], [1]) / "cells").iterdir()).rename(crossed / "cells" / "fft")
    with pytest.raises(UserError, match="no two cells agree in all of method, data, backbones"):
        compare(first, crossed)


def test_other_conditions_are_refused_unless_asked_for(tmp_path: Path) -> None:
    first, second = pair_of(tmp_path)
    set_machine(second, "Another CPU")
    with pytest.raises(UserError, match=r"differ in machine \(Made-up CPU, 2 threads against Another CPU, 2 threads\)"):
        compare(first, second)
    assert len(compare(first, second, allow_different=True).ratios) == 20
    other = make_run(tmp_path / "gpu", METHODS, [0, 1], device="cuda:0")
    with pytest.raises(UserError, match=r"differ in device \(cpu against cuda:0\): --allow-different"):
        compare(first, other)
    longer = make_run(tmp_path / "longer", METHODS, [0, 1])
    for path in (longer / "cells").glob("*/record.json"):
        record = json.loads(path.read_text())
        write_json(path, {**record, "budget": {"epochs": 9, "batch_size": 32}, "batch_digest": "else"})
    with pytest.raises(UserError, match=r"differ in budget \(epochs=3 against epochs=9\)"):
        compare(first, longer)
    notes = compare(first, longer, allow_different=True).notes
    assert sum("did not see the same batches" in note for note in notes) == 4


def test_memory_of_two_sources_has_no_ratio(tmp_path: Path) -> None:
    first, second = pair_of(tmp_path, memory_source="nvml_process_bytes")
    assert "memory" not in {ratio.metric for ratio in compare(first, second).ratios}


def test_without_ranks_accuracy_has_no_interval(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / name, METHODS, [0]) for name in "ab")
    ratio = found(compare(first, second), "lora", "hr@10")
    assert (ratio.ratio, ratio.low, ratio.high) == (1.0, None, None)
    with pytest.raises(UserError, match=r"--fail-if hr@10<0.9: no cell has an interval for hr@10"):
        compare(first, second, [parse_threshold("hr@10<0.9")])
    with pytest.raises(UserError, match=r"--fail-if mrr@5<0.9: no cell has an interval"):
        compare(first, second, [parse_threshold("mrr@5<0.9")])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("time", "expected METRIC>RATIO"),
        ("time>=1.05", "expected METRIC>RATIO"),
        ("speed>1.05", "unknown metric 'speed'; known: time, params, memory"),
        ("hr@0<0.9", "unknown metric 'hr@0'"),
        ("hr@ten<0.9", "unknown metric 'hr@ten'"),
        ("time>0", "the ratio must be above 0"),
        ("time>1.0.5", "'1.0.5' is not a number"),
        ("time>-1", "expected METRIC>RATIO"),
    ],
)
def test_bad_thresholds(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_threshold(text)


def test_a_threshold_is_read() -> None:
    assert parse_threshold(" ndcg@5 < 0.95 ") == Threshold("ndcg@5", False, 0.95)
    assert parse_threshold("time>1.05").text == "time>1.05"


def test_a_first_figure_of_zero_has_no_ratio(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", METHODS, [0], changes={"lora": {"hr@10": 0.0}})
    second = make_run(tmp_path / "b", METHODS, [0])
    assert found(compare(first, second), "lora", "hr@10").ratio is None
    assert compare_command.words(found(compare(first, second), "lora", "hr@10")) == "unknown"
