"""TPME against the published figures, a second implementation, and every kind of bad table."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.scoring import tpme
from bench.utils.errors import UserError
from tests.scoring.tables import PUBLISHED, random_table


def plain_tpme(table: dict[str, dict[str, float]], weights: tuple[float, ...]) -> dict[str, float]:
    """The definition, one number at a time."""
    scores = {}
    for name, row in table.items():
        total = 0.0
        for weight, column in zip(weights, ("time", "params", "memory"), strict=True):
            values = [other[column] for other in table.values()]
            total += weight * (row[column] - min(values)) / (max(values) - min(values))
        scores[name] = total
    return scores


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


GOOD = "method,time,params,memory\na,1,2,3\nb,2,3,4\n"


def test_published_scores() -> None:
    scores = tpme.tpme(PUBLISHED)
    assert round(scores["iisan"], 2) == 0.22
    assert scores["fft"] == pytest.approx(1.0)
    assert round(scores["adapter"], 2) == 0.70
    assert round(scores["lora"], 2) == 0.75
    assert tpme.order_of(scores) == ("iisan-cached", "iisan", "adapter", "lora", "fft")


def test_leaving_fft_out_turns_adapter_and_lora_round() -> None:
    left = {entry.left_out: entry for entry in tpme.leave_one_out(PUBLISHED)}
    without = left["fft"]
    assert round(without.scores["adapter"], 2) == 0.94
    assert round(without.scores["lora"], 2) == 0.90
    assert without.turned == (("adapter", "lora"),)
    assert without.preserved is False
    assert without.order == ("iisan-cached", "iisan", "lora", "adapter")
    assert left["iisan"].preserved is True
    assert left["iisan"].order == ("iisan-cached", "adapter", "lora", "fft")


@pytest.mark.parametrize("seed", range(5))
def test_scores_follow_the_definition(seed: int) -> None:
    table = random_table(seed, 7)
    weights = (0.2, 0.5, 0.3)
    assert tpme.tpme(table, weights) == pytest.approx(plain_tpme(table, weights))


@pytest.mark.parametrize("seed", range(5))
def test_leave_one_out_is_the_score_of_the_smaller_table(seed: int) -> None:
    table = random_table(seed, 6)
    whole = plain_tpme(table, tpme.WEIGHTS)
    for entry in tpme.leave_one_out(table):
        rest = {name: row for name, row in table.items() if name != entry.left_out}
        scores = plain_tpme(rest, tpme.WEIGHTS)
        assert entry.scores == pytest.approx(scores)
        turned = {(a, b) for a in rest for b in rest if whole[a] < whole[b] and scores[a] > scores[b]}
        assert set(entry.turned) == turned
        assert entry.preserved is (not turned)


@pytest.mark.parametrize("seed", range(5))
def test_sensitivity_counts_the_grid_point_by_point(seed: int) -> None:
    table = random_table(seed, 5)
    base = plain_tpme(table, tpme.WEIGHTS)
    points = [(i, j, 10 - i - j) for i in range(11) for j in range(11 - i)]
    first = dict.fromkeys(table, 0)
    kept = 0
    for point in points:
        scores = plain_tpme(table, tuple(part / 10 for part in point))
        first[min(scores, key=lambda name: scores[name])] += 1
        kept += not any(base[a] < base[b] and scores[a] > scores[b] + 1e-12 for a in table for b in table)
    found = tpme.weight_sensitivity(table, step=0.1)
    assert found.points == len(points) == 66
    assert found.step == 0.1
    assert found.first == pytest.approx({name: count / 66 for name, count in first.items()})
    assert found.order_kept == pytest.approx(kept / 66)


def test_sensitivity_shares_ties_and_sums_to_one() -> None:
    table = {"a": PUBLISHED["iisan"], "b": PUBLISHED["iisan"], "c": PUBLISHED["fft"]}
    found = tpme.weight_sensitivity(table)
    assert found.points == 231
    assert found.first == pytest.approx({"a": 0.5, "b": 0.5, "c": 0.0})
    assert found.order_kept == 1.0


def test_order_of_tied_methods_cannot_be_reversed() -> None:
    """Two pairs tie under the given weights, in first and in third place, and part at nearly every grid point."""
    tenths = {"a": (0, 0, 4), "b": (4, 0, 0), "c": (2, 5, 6), "d": (6, 5, 2), "e": (10, 10, 10)}
    points = [(i, j, 10 - i - j) for i in range(11) for j in range(11 - i)]
    exact = [{name: int(np.dot(point, row)) for name, row in tenths.items()} for point in points]
    ahead = [pair for pair in itertools.combinations("abcde", 2) if pair not in (("a", "b"), ("c", "d"))]
    kept = sum(all(scores[x] <= scores[y] for x, y in ahead) for scores in exact)
    table = {name: dict(zip(tpme.COLUMNS, map(float, row), strict=True)) for name, row in tenths.items()}
    found = tpme.weight_sensitivity(table, step=0.1)
    assert 0 < kept < len(points)
    assert found.order_kept == kept / len(points)
    firsts = {
        name: sum(
            (scores[name] == min(scores.values())) / list(scores.values()).count(min(scores.values()))
            for scores in exact
        )
        for name in tenths
    }
    assert found.first == pytest.approx({name: count / len(points) for name, count in firsts.items()})


def test_scores_do_not_depend_on_units_or_on_the_order_of_rows() -> None:
    scaled = {
        name: {"time": row["time"] / 60, "params": row["params"] / 1e6, "memory": row["memory"] * 2**30}
        for name, row in reversed(PUBLISHED.items())
    }
    assert tpme.tpme(scaled) == pytest.approx(tpme.tpme(PUBLISHED))


def test_reference_pins_minima_and_maxima() -> None:
    alone = tpme.tpme({"iisan": PUBLISHED["iisan"]}, reference=PUBLISHED)
    assert alone["iisan"] == pytest.approx(tpme.tpme(PUBLISHED)["iisan"])
    beyond = {"big": {column: 2 * value for column, value in PUBLISHED["fft"].items()}}
    assert tpme.tpme(beyond, reference=PUBLISHED)["big"] > 1
    for entry in tpme.leave_one_out(PUBLISHED, reference=PUBLISHED):
        assert entry.preserved
        assert entry.scores == pytest.approx({n: s for n, s in tpme.tpme(PUBLISHED).items() if n != entry.left_out})


def test_reference_moves_the_order_that_left_out_methods_and_other_weights_are_compared_with() -> None:
    """Pinned to a range ten times as wide in time, time hardly counts, and the order of the two is the other one."""
    table = {
        "fast": {"time": 1.0, "params": 5.0, "memory": 3.0},
        "small": {"time": 2.0, "params": 5.0, "memory": 2.0},
        "third": {"time": 2.0, "params": 9.0, "memory": 4.0},
    }
    wide = {**table, "slow": {"time": 101.0, "params": 5.0, "memory": 2.0}}
    assert tpme.order_of(tpme.tpme(table, (0.6, 0.0, 0.4)))[0] == "fast"
    assert tpme.order_of(tpme.tpme(table, (0.6, 0.0, 0.4), wide))[0] == "small"
    left = {entry.left_out: entry for entry in tpme.leave_one_out(table, (0.6, 0.0, 0.4), wide)}
    assert left["third"].order == ("small", "fast")
    assert left["third"].preserved is True
    low, high = tpme.weight_sensitivity(table, step=0.1), tpme.weight_sensitivity(table, step=0.1, reference=wide)
    assert high.first["small"] > low.first["small"]


def test_frame_and_mapping_agree() -> None:
    frame = pd.DataFrame([{"method": name, **row} for name, row in PUBLISHED.items()])
    assert tpme.tpme(frame) == tpme.tpme(PUBLISHED)


def test_left_out_method_that_carried_the_range_is_reported() -> None:
    table = {
        "a": {"time": 1.0, "params": 5.0, "memory": 1.0},
        "b": {"time": 2.0, "params": 5.0, "memory": 2.0},
        "c": {"time": 3.0, "params": 9.0, "memory": 3.0},
    }
    last = tpme.leave_one_out(table)[-1]
    assert last.left_out == "c"
    assert last.preserved is None
    assert "params" in last.reason
    assert last.order == ()
    assert last.turned == ()
    assert last.scores == {}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((0.5, 0.5, 0.5), "sum to 1.5, not to 1"),
        ((0.33, 0.33, 0.33), "sum to 0.99"),
        ((1.2, -0.2, 0.0), "params is -0.2"),
        ((math.nan, 0.5, 0.5), "time is nan"),
        ((0.5, 0.5), "2 given, expected three"),
    ],
)
def test_bad_weights(weights: tuple[float, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tpme.tpme(PUBLISHED, weights)


def test_weights_are_floats_whatever_they_came_as() -> None:
    assert tpme.checked_weights((1, 0, 0)).dtype == np.float64


def test_weights_may_be_rounded_in_the_last_digit() -> None:
    assert tpme.tpme(PUBLISHED, (0.333333, 0.333333, 0.333334))["fft"] == pytest.approx(1.0)


@pytest.mark.parametrize("column", tpme.COLUMNS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, None, "12", pd.NA])
def test_bad_value_names_method_and_column(column: str, value: object) -> None:
    table = {**PUBLISHED, "lora": {**PUBLISHED["lora"], column: value}}
    with pytest.raises(UserError, match=f"'lora': {column} is"):
        tpme.tpme(table)  # type: ignore[arg-type]


def test_missing_column_of_a_method_is_named() -> None:
    with pytest.raises(UserError, match="'b': memory is missing"):
        tpme.tpme({"a": PUBLISHED["fft"], "b": {"time": 1.0, "params": 2.0}})


@pytest.mark.parametrize("column", tpme.COLUMNS)
def test_zero_range_names_the_column(column: str) -> None:
    table = {name: {**row, column: 7.0} for name, row in PUBLISHED.items()}
    with pytest.raises(UserError, match=f"{column} is 7 for every method"):
        tpme.tpme(table)


def test_too_few_methods() -> None:
    with pytest.raises(UserError, match="'fft' is alone"):
        tpme.tpme({"fft": PUBLISHED["fft"]})
    with pytest.raises(UserError, match="no method"):
        tpme.tpme({})
    with pytest.raises(UserError, match="no method"):
        tpme.tpme({}, reference=PUBLISHED)
    with pytest.raises(UserError, match="at least three"):
        tpme.leave_one_out({name: PUBLISHED[name] for name in ("fft", "lora")})
    with pytest.raises(UserError, match=r"reference table: .*alone"):
        tpme.tpme(PUBLISHED, reference={"fft": PUBLISHED["fft"]})


def test_duplicate_method_in_a_frame() -> None:
    frame = pd.DataFrame([{"method": "fft", **PUBLISHED["fft"]}, {"method": "fft", **PUBLISHED["lora"]}])
    with pytest.raises(UserError, match="'fft' is in the table twice"):
        tpme.tpme(frame)
    with pytest.raises(UserError, match="no column memory"):
        tpme.tpme(frame.drop(columns="memory"))


@pytest.mark.parametrize("step", [0.0, -0.1, 0.3, 2.0, math.nan])
def test_grid_step_must_divide_one(step: float) -> None:
    with pytest.raises(UserError, match="does not divide 1"):
        tpme.weight_sensitivity(PUBLISHED, step=step)


def test_grid_step_may_be_rounded_or_leave_the_corners_alone() -> None:
    assert tpme.weight_sensitivity(PUBLISHED, step=0.3333333).points == 10
    assert tpme.weight_sensitivity(PUBLISHED, step=1.0).points == 3


def test_score_sorts_and_keeps_figures(tmp_path: Path) -> None:
    lines = ["method,time,params,memory,note"]
    lines += [f"{name},{row['time']},{row['params']},{row['memory']},x" for name, row in PUBLISHED.items()]
    rows = tpme.score(write(tmp_path / "t.csv", "\n".join(lines)))
    assert [row["method"] for row in rows] == ["iisan-cached", "iisan", "adapter", "lora", "fft"]
    assert {str(row["method"]): row["tpme"] for row in rows} == pytest.approx(tpme.tpme(PUBLISHED))
    assert rows[-1]["params"] == 194_897_216


def test_score_with_a_reference_file(tmp_path: Path) -> None:
    lines = ["method,time,params,memory"]
    lines += [f"{name},{row['time']},{row['params']},{row['memory']}" for name, row in PUBLISHED.items()]
    reference = write(tmp_path / "ref.csv", "\n".join(lines))
    one = write(tmp_path / "one.csv", f"{lines[0]}\n{lines[4]}\n")
    assert tpme.score(one, reference=reference)[0]["tpme"] == pytest.approx(tpme.tpme(PUBLISHED)["iisan"])
    with pytest.raises(UserError, match=r"one\.csv: .*alone"):
        tpme.score(one)
    with pytest.raises(UserError, match=r"one\.csv: .*alone"):
        tpme.score(reference, reference=one)
    other = write(tmp_path / "other.csv", f"{lines[0]}\n{lines[4]}\nnew,1,2,3\n")
    with pytest.raises(UserError, match=r"ref\.csv: no row for method 'new'; a reference table needs"):
        tpme.score(other, reference=reference)


@pytest.mark.parametrize("pinned", [None, PUBLISHED])
def test_many_comparisons_at_once(pinned: dict[str, dict[str, float]] | None) -> None:
    tables = [random_table(seed, 4) for seed in range(5)]
    costs = np.array([[[row[c] for c in tpme.COLUMNS] for row in table.values()] for table in tables])
    found = tpme.tpme_of_many(costs, (0.2, 0.3, 0.5), pinned)
    for scores, table in zip(found, tables, strict=True):
        assert scores == pytest.approx(list(tpme.tpme(table, (0.2, 0.3, 0.5), pinned).values()))
    costs[2, :, 1] = 7.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(tpme.tpme_of_many(costs)).all(axis=1).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("lead", "newline", "quote"), list(itertools.product(["", "\ufeff"], ["\n", "\r\n"], ["", '"']))
)
def test_spreadsheets_dialects_are_read(tmp_path: Path, lead: str, newline: str, quote: str) -> None:
    text = newline.join(
        [f"{lead}time, method ,{quote}memory{quote},params", f"1,{quote}é a{quote},3, 2", "", "2,b,4,3e0"]
    )
    table = tpme.read_table(write(tmp_path / "t.csv", text))
    assert table.to_dict("records") == [
        {"method": "é a", "time": 1.0, "params": 2.0, "memory": 3.0},
        {"method": "b", "time": 2.0, "params": 3.0, "memory": 4.0},
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("method,time,params,memory\n", "a header and no rows"),
        ("method,time,parms,memory\na,1,2,3\n", "line 1: column params is missing; did you mean 'parms'"),
        ("method;time;params;memory\na;1;2;3\n", "line 1: column method is missing; .*method;time;params;memory"),
        ("a,1,2,3\nb,2,3,4\n", "line 1: column method is missing"),
        ("method,time,params,memory,time\na,1,2,3,4\n", "column time is in the header twice"),
        (GOOD + "c,fast,2,3\n", "line 4, column time: 'fast' is not a number"),
        (GOOD + "\n\nc,1,2,12GB\n", "line 6, column memory: '12GB' is not a number"),
        (GOOD + "c,1_000,2,3\n", "line 4, column time: '1_000' is not a number"),
        (GOOD + "c,1,,3\n", "line 4, column params: the value is missing"),
        (GOOD + "c,nan,2,3\n", "line 4, column time: nan is not a finite"),
        (GOOD + "c,1,2,inf\n", "line 4, column memory: inf is not a finite"),
        (GOOD + "c,1,-2,3\n", "line 4, column params: -2 is not a finite"),
        (GOOD + "c,1,2\n", "line 4: 3 values, but the header has 4 columns"),
        (GOOD + "a,1,2,3\n", "line 4: method 'a' is in the table twice"),
        (GOOD + " ,1,2,3\n", "line 4: column method is empty"),
        (GOOD + '"c,1,2,3\n', "line 4: not CSV"),
    ],
)
def test_bad_table_names_file_line_and_column(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(UserError, match=words) as caught:
        tpme.read_table(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        tpme.read_table(tmp_path / "none.csv")
    with pytest.raises(UserError, match="cannot be read"):
        tpme.read_table(tmp_path)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"method,time\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        tpme.read_table(binary)
