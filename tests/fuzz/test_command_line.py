"""The command line itself, called with whatever arguments: exit status 0, 1 or 2, never a traceback."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench.commands.run
import run_bench
from tests.data.small_amazon import write_amazon
from tests.fuzz.harness import cases
from tests.fuzz.hostile import NASTY_TEXT
from tests.reports.factory import make_run


def _word(given: bytes) -> str:
    return os.fsdecode(given.replace(b"\0", b""))


# What a shell can hand over: any bytes but NUL, which need not be UTF-8.
WORDS = st.sampled_from([text for text in NASTY_TEXT if "\0" not in text]) | (
    (st.text(max_size=8).map(str.encode) | st.binary(max_size=8)).map(
        lambda word: os.fsdecode(word.replace(b"\0", b""))
    )
)
NUMBERS = st.sampled_from(["0", "1", "2", "-1", "1e400", "nan", "inf", "1.5", "99999999999999999999", "9" * 5000, "x"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a run, a table, a matrix file and data; no cell ever starts in it."""
    folder = tmp_path_factory.mktemp("place")
    make_run(folder / "run", methods=("fft", "lora"), seeds=(0,))
    (folder / "table.csv").write_text("method,time,params,memory\na,1,10,3\nb,3,5,9\nc,2,7,6\n")
    (folder / "mine.toml").write_text('name = "mine"\n[[methods]]\nname = "lora"\n[budget]\nsteps = 1\n')
    titles = {f"B{i:03}": f"soft cotton shirt number {i}" for i in range(30)}
    write_amazon(folder / "data", titles, {f"U{u}": [f"B{(u * 7 + k) % 30:03}" for k in range(6)] for u in range(30)})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(bench.commands.run, "run_local", lambda cells, out, report, launch: None)
        yield folder


def call(arguments: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = run_bench.main(arguments)
        except SystemExit as stop:
            status = int(stop.code or 0)
    return status, out.getvalue(), err.getvalue()


def check(arguments: list[str], allowed: set[int]) -> int:
    status, out, err = call(arguments)
    assert status in allowed, (status, err)
    assert "Traceback" not in err
    for text in (out, err):
        assert all(line.isprintable() for line in text.split("\n")), text
    if status == 2:
        assert out == ""
        assert len(err.splitlines()[-1]) > 12
        assert [line for line in err.splitlines() if not line.startswith(("plan: ", "data: "))] == err.splitlines()[
            -1:
        ], err
    if status == 0 and "--json" in arguments:
        json.loads(out)
    return status


def options(*choices: tuple[str, st.SearchStrategy[str] | None]) -> st.SearchStrategy[list[str]]:
    """A few of the options in any order, each with a value or, by its strategy, none."""
    one = st.one_of(
        [
            st.just([name]) if value is None else value.map(lambda given, name=name: [f"{name}={given}"])
            for name, value in choices
        ]
    )
    return st.lists(one, max_size=4).map(lambda parts: [word for part in parts for word in part])


TRIPLES = (
    st.sampled_from(["0.45,0.1,0.45", "1,0,0", "0.5,0.5", "nan,0,1", "1e400,0,0", "-1,1,1", ",,", "1,1,1"]) | WORDS
)
SCORE = options(
    ("--json", None),
    ("--metric", st.sampled_from(["tpme", "pscp", "both"]) | WORDS),
    ("--weights", TRIPLES),
    ("--reference", st.sampled_from(["table.csv", "none.csv", "data"]) | WORDS),
    ("--pscp-constants", TRIPLES),
    ("--pscp-exponents", TRIPLES),
)
PATHS = st.sampled_from(["table.csv", "run", "data", "mine.toml", "no/such", "/dev/null", "/proc/self/mem"]) | WORDS


@given(path=PATHS, given_options=SCORE)
@cases("commands: score", 2)
def test_score(place: Path, path: str, given_options: list[str]) -> None:
    check(["score", path, *given_options], {0, 2})


REPORT = options(
    ("--out", st.sampled_from(["out", "run", "table.csv", "table.csv/x", "/dev/null/x"])),
    ("--k", st.sampled_from(["10", "5,10", "0", "-1", "9" * 30, "9" * 5000, "a", ""]) | WORDS),
    ("--weights", TRIPLES),
    ("--reference", st.sampled_from(["table.csv", "none.csv"]) | WORDS),
    ("--pscp-constants", TRIPLES),
)
RECIPE_DATA = (
    ("--dataset", st.sampled_from(["shop", "amazon", "table", "recbole", "shp"]) | WORDS),
    ("--image-dir", st.sampled_from(["data", "no/such"]) | WORDS),
    ("--missing-images", st.sampled_from(["fail", "drop-item", "mean-image", "drop"]) | WORDS),
    ("--bad-images", st.sampled_from(["fail", "drop-item", "mean-image", "drop"]) | WORDS),
)
DATA = options(
    *RECIPE_DATA,
    ("--user-column", WORDS),
    ("--split", st.sampled_from(["temporal", "leave-one-out"]) | WORDS),
    ("--valid-from", st.sampled_from(["1000", "2023-01-01", "nan", "1e400"]) | WORDS),
    ("--test-from", st.sampled_from(["2000", "2023-07-01", "x"]) | WORDS),
    ("--json", None),
)


@given(path=st.sampled_from(["data", "no/such", "run", "table.csv"]) | WORDS, given_options=DATA)
@cases("commands: data")
def test_data(place: Path, path: str, given_options: list[str]) -> None:
    check(["data", path, *given_options], {0, 2})


SPOILT = st.sampled_from(
    [["--k=0"], ["--weights=1,1,1"], ["--reference=none.csv"], ["--out=table.csv"], ["no-run"], ["--x"]]
)


@given(
    path=st.sampled_from(["run", "run", "data", "no/such", "table.csv"]) | WORDS, given_options=REPORT, spoilt=SPOILT
)
@cases("commands: report")
def test_report(place: Path, path: str, given_options: list[str], spoilt: list[str]) -> None:
    assert check(["report", path, *given_options, *spoilt], {0, 2}) == 2 or path in ("-h", "--help")


THRESHOLDS = st.sampled_from(["time>1.05", "hr@10<0.9", "hr@0<1", "time>1e999", "time>.", "time<", "x>1", "mrr@10>nan"])


@given(
    first=st.sampled_from(["run", "run", "data"]) | WORDS,
    second=st.sampled_from(["run", "run", "no"]) | WORDS,
    given_options=options(("--fail-if", THRESHOLDS | WORDS), ("--json", None), ("--allow-different", None)),
)
@cases("commands: compare")
def test_compare(place: Path, first: str, second: str, given_options: list[str]) -> None:
    check(["compare", first, second, *given_options], {0, 1, 2})


RECIPE = (
    *RECIPE_DATA,
    ("--data-dir", st.sampled_from(["data", "no/such", "table.csv"]) | WORDS),
    ("--preset", st.sampled_from(["default", "smoke", "paper", "amazon", "defualt"]) | WORDS),
    ("--config", st.sampled_from(["mine.toml", "table.csv", "no.toml", "data"]) | WORDS),
    ("--methods", st.sampled_from(["lora", "lora,fft", "lorra", "lora,,fft", "lora,lora"]) | WORDS),
    ("--modality", st.sampled_from(["text", "image", "text+image", "audio"]) | WORDS),
    ("--text-model", st.sampled_from(["shop-full", "bert-base", "/nope", "data", "table.csv"])),
    ("--image-model", st.sampled_from(["shop-full", "vit-base", "./nope", "data", "shop-absent"])),
    ("--hidden-states", st.sampled_from(["live", "cached", "both"])),
    ("--batch-size", NUMBERS),
    ("--precision", st.sampled_from(["fp32", "bf16", "fp8"]) | WORDS),
    ("--trust-remote-code", None),
)
SIZES = st.sampled_from(
    ["24GiB", "24 GB", "1", "0", "-1", "1e9", "9" * 400, "9" * 5000, "1.5.5GB", "24Gib2", "٣GB", "GB"]
)
RUN = options(
    *RECIPE,
    ("--seeds", st.sampled_from(["0", "0,1", "0,0", "-1", "9" * 30, "a", "1.5", ""])),
    ("--shop-seed", NUMBERS),
    ("--weights", st.sampled_from(["pretrained", "random", "none"])),
    ("--epochs", NUMBERS),
    ("--steps", NUMBERS),
    ("--seconds", NUMBERS),
    ("--device", st.sampled_from(["cpu", "auto", "cuda:99", "cuda:x", "foo"]) | WORDS),
    ("--profile", NUMBERS),
    ("--out", st.sampled_from(["table.csv", "data", "run", "table.csv/x"])),
    ("--launcher", st.sampled_from(["local", "slurm"])),
    ("--parallel", NUMBERS),
    ("--cell-timeout", NUMBERS),
    ("--hang-timeout", NUMBERS),
    ("--memory-limit", SIZES | WORDS),
    ("--fresh", None),
    ("--retry-failed", None),
)


@given(given_options=RUN)
@cases("commands: run")
def test_run_up_to_the_launch_of_cells(place: Path, given_options: list[str]) -> None:
    # The last of an option counts, so this one decides where the folder goes unless it is given; nothing is measured.
    small = ["--preset=smoke"] if not any(word.startswith(("--preset", "--config")) for word in given_options) else []
    check(["run", "--out=fresh", *small, *given_options], {0, 1, 2})
    if os.path.isdir("fresh"):
        os.rename("fresh", f"done-{len(os.listdir())}")


PLAN = options(
    *RECIPE,
    ("--shapes", st.sampled_from(["data", "full", "none"])),
    ("--items", NUMBERS),
    ("--fit", SIZES | WORDS),
    ("--card", st.sampled_from(["a100-80g", "h100", "a1000"]) | WORDS),
    ("--peak-flops", NUMBERS),
    ("--bandwidth", NUMBERS),
    ("--json", None),
)
UNPLANNED = st.sampled_from([["--fit=0"], ["--methods=lorra"], ["--epochs=1"], ["--items=0"], ["--peak-flops=nan"]])


@given(given_options=PLAN, spoilt=UNPLANNED)
@cases("commands: plan")
def test_plan(place: Path, given_options: list[str], spoilt: list[str]) -> None:
    check(["plan", *given_options, *spoilt], {0, 2})


@given(command=st.sampled_from(["list", "doctor", "run", "plan", "report", "score", "", "-h", "lst"]) | WORDS,
       words=st.lists(WORDS.filter(lambda word: word not in ("", "-b")), min_size=1, max_size=4))  # fmt: skip
@cases("commands: words")
def test_any_words(place: Path, command: str, words: list[str]) -> None:
    check([command, *words], {0, 2} if command != "doctor" else {0, 1, 2})
