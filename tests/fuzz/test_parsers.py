"""The parsers of what people write: matrix files, item and user files, score and reference tables, sizes."""

import csv
import io
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import assume, given
from hypothesis import strategies as st

from bench.commands import score
from bench.config.matrix import PRESETS, Matrix, build_method, parse, preset_names, read_toml, to_toml
from bench.data.catalogue import Catalogue
from bench.data.readers.amazon import log_of, select
from bench.data.readers.amazon_files import Tables, find_files, read
from bench.data.readers.amazon_files import parse as parse_tables
from bench.data.readers.selection import Selection
from bench.data.readers.table_dataset import FilesConfig, load_files
from bench.data.splits import MAX_LENGTH, MIN_LENGTH
from tests.data.small_amazon import write_amazon
from tests.fuzz.harness import answered, cases
from tests.fuzz.hostile import as_csv, changed, mutated, texts

PRESET_BYTES = [(PRESETS / f"{name}.toml").read_bytes() for name in preset_names()]
PRESET_VALUES = [tomllib.loads(content.decode()) for content in PRESET_BYTES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def matrix_of(path: Path) -> Matrix | None:
    def load() -> Matrix:
        matrix = parse(read_toml(path), str(path))
        for method in matrix.methods:
            build_method(method, str(path))
        return matrix

    return answered(load, str(path))


@given(content=st.sampled_from(PRESET_BYTES).flatmap(mutated))
@cases("matrix files, bytes", 2)
def test_matrix_files_with_broken_bytes(folder: Path, content: bytes) -> None:
    path = folder / "m.toml"
    path.write_bytes(content)
    matrix_of(path)


@given(value=st.sampled_from(PRESET_VALUES).flatmap(changed))
@cases("matrix files, values", 2)
def test_matrix_files_with_odd_values_are_refused_or_come_back_as_they_are(folder: Path, value: Any) -> None:
    assume(isinstance(value, dict))
    path = folder / "m.toml"
    try:
        path.write_text(tomli_w.dumps(value), encoding="utf-8")
    except (TypeError, ValueError, AttributeError):
        assume(False)  # null, half a surrogate pair: not to be written in TOML
    matrix = matrix_of(path)
    if matrix is not None:
        path.write_text(to_toml(matrix), encoding="utf-8")
        assert matrix_of(path) == matrix


ITEMS = [f"B{n:03}" for n in range(12)]
LINES = st.lists(st.tuples(texts | st.sampled_from(ITEMS), texts), max_size=8)


def read_tables(folder: Path) -> None:
    items, users = find_files(folder)

    def load() -> tuple[Tables, Selection]:
        tables = parse_tables(items, read(items), users, read(users))
        return tables, select(log_of(tables), users)

    loaded = answered(load, f"{items}:", f"{users}:")
    if loaded is None:
        return
    tables, selection = loaded
    assert len(set(tables.item_ids)) == len(tables.item_ids) == len(tables.titles)
    assert all(title and "\n" not in title for title in tables.titles)
    for sequence in selection.sequences:
        assert MIN_LENGTH <= len(sequence) <= MAX_LENGTH
        assert sequence.min() >= 0
        assert sequence.max() < len(tables.item_ids)


@pytest.fixture(scope="module")
def amazon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    titles = {item: f"Thing &amp; {item}" for item in ITEMS}
    users = {f"U{n}": [ITEMS[(n * 5 + k) % 12] for k in range(5 + n % 9)] for n in range(6)}
    return write_amazon(tmp_path_factory.mktemp("amazon"), titles, users)


@given(data=st.data(), which=st.sampled_from(["x_items.tsv", "x_users.tsv"]))
@cases("item and user files, bytes", 2)
def test_item_and_user_files_with_broken_bytes(amazon: Path, data: st.DataObject, which: str) -> None:
    path = amazon / which
    sound = path.read_bytes()
    path.write_bytes(data.draw(mutated(sound)))
    try:
        read_tables(amazon)
    finally:
        path.write_bytes(sound)


@given(items=LINES, users=LINES, ending=st.sampled_from(["\n", "\r\n"]))
@cases("item and user files, fields", 2)
def test_item_and_user_files_with_odd_fields(
    amazon: Path, items: list[tuple[str, str]], users: list[tuple[str, str]], ending: str
) -> None:
    sound = {path: path.read_bytes() for path in amazon.glob("*.tsv")}
    for path, lines in zip(sorted(sound), (items, users), strict=True):
        added = "".join(f"{one}\t{other}{ending}" for one, other in lines).encode("utf-8", "surrogatepass")
        path.write_bytes(sound[path] + added)
    try:
        read_tables(amazon)
    finally:
        for path, content in sound.items():
            path.write_bytes(content)


TABLE = as_csv(
    [
        ["method", "time", "params", "memory", "performance", "extra_tflops"],
        ["fft", "443", "194897216", "47e9", "0.2", "0"],
        ["lora", "380", "796736", "38e9", "0.21", "0.5"],
        ["iisan", "22", "4113877", "3e9", "0.19", "0"],
    ]
)
CELLS = st.sampled_from(["0", "1", "2.5", "1e308", "5e-324", "007", " 3 "]) | texts
ROWS = st.lists(st.tuples(texts | st.sampled_from("abc"), *[CELLS] * 5).map(list), max_size=5)


def score_of(path: Path, metric: str, reference: Path | None = None) -> None:
    rows = answered(lambda: score.score(path, metric, reference=reference), str(path), str(reference))
    for row in rows or []:
        if metric != "pscp" and reference is None:
            assert -1e-9 <= row["tpme"] <= 1 + 1e-9
        if metric != "tpme":
            assert 0 <= row["pscp"] <= row["performance"] * (1 + 1e-9)


METRICS = st.sampled_from(["tpme", "pscp", "both"])


@given(content=mutated(TABLE), metric=METRICS)
@cases("score tables, bytes", 2)
def test_score_tables_with_broken_bytes(folder: Path, content: bytes, metric: str) -> None:
    path = folder / "table.csv"
    path.write_bytes(content)
    score_of(path, metric)


@given(rows=ROWS, metric=METRICS)
@cases("score tables, cells", 2)
def test_score_tables_with_odd_cells(folder: Path, rows: list[list[str]], metric: str) -> None:
    path = folder / "table.csv"
    header = next(csv.reader(io.StringIO(TABLE.decode())))
    path.write_bytes(as_csv([header, *rows]))
    score_of(path, metric)


@given(content=mutated(TABLE))
@cases("reference tables")
def test_reference_tables_with_broken_bytes(folder: Path, content: bytes) -> None:
    path, reference = folder / "table.csv", folder / "reference.csv"
    path.write_bytes(TABLE)
    reference.write_bytes(content)
    score_of(path, "tpme", reference)


FORMATS: dict[str, dict[str, list[list[str]]]] = {
    "table": {
        "items.csv": [["item", "title"], *([item, f"Thing {item}"] for item in ITEMS)],
        "interactions.csv": [["user", "item", "timestamp"]],
    },
    "recbole": {
        "a.item": [["item_id:token", "title:token_seq"], *([item, f"Thing {item}"] for item in ITEMS)],
        "a.inter": [["user_id:token", "item_id:token", "timestamp:float"]],
    },
}


def write_format(folder: Path, name: str) -> dict[Path, bytes]:
    files = {}
    for file, rows in FORMATS[name].items():
        events = [[f"U{n}", ITEMS[(n * 5 + k) % 12], str(1000 + k)] for n in range(6) for k in range(5 + n % 9)]
        content = as_csv(rows + (events if len(rows) == 1 else []))
        files[folder / file] = content if name == "table" else content.replace(b",", b"\t")
        (folder / file).write_bytes(files[folder / file])
    return files


@given(data=st.data(), name=st.sampled_from(sorted(FORMATS)), temporal=st.booleans())
@cases("tables of items and interactions", 2)
def test_tables_with_broken_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str, temporal: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"fuzz-{name}"
    folder.mkdir(exist_ok=True)
    files = write_format(folder, name)
    path = data.draw(st.sampled_from(sorted(files)))
    path.write_bytes(data.draw(mutated(files[path])))
    moments = ("1003", "1006") if temporal else (None, None)
    config = FilesConfig(name, folder, valid_from=moments[0], test_from=moments[1])
    catalogue: Catalogue | None = answered(lambda: load_files(config, None), str(folder), "--valid-from", "--test-from")
    if catalogue is not None:
        assert all(user.isprintable() for user in catalogue.user_ids)
        assert temporal or all(len(sequence) >= MIN_LENGTH for sequence in catalogue.sequences)
        assert set(range(len(catalogue.item_ids))) == {item for one in catalogue.sequences for item in one.tolist()}
