"""Tables of one's own: the same catalogue whatever the files are, what is left out, what is refused and how."""

import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.data.catalogue import Catalogue
from bench.data.readers.amazon import load_amazon
from bench.data.readers.images import Policies
from bench.data.readers.table_dataset import FilesConfig, load_files
from bench.data.readers.tables import columns
from bench.data.splits import split
from bench.utils.errors import UserError
from tests.data.small_amazon import write_amazon
from tests.data.tables import ROWS, TITLES, USERS, text, write_csv, write_microlens, write_recbole, write_table

WRITERS = {"table": write_table, "recbole": write_recbole, "microlens": write_microlens}


def same_splits(one: Catalogue, other: Catalogue) -> bool:
    first, second = (split(c.sequences, len(c.item_ids), c.cuts) for c in (one, other))
    return all(np.array_equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(first))


# The same data as the Amazon loader reads gives the same catalogue


@pytest.mark.parametrize("name", WRITERS)
def test_the_amazon_loader_gives_the_same(name: str, tmp_path: Path) -> None:
    expected = load_amazon(write_amazon(tmp_path / "amazon", TITLES, USERS), needs_images=False)
    found = text(WRITERS[name](tmp_path / name))
    assert (found.digest, found.name) == (expected.digest, name)
    assert (found.item_ids, found.titles, found.user_ids) == (expected.item_ids, expected.titles, expected.user_ids)
    assert same_splits(found, expected)
    assert found.dropped == {reason: count for reason, count in expected.dropped.items() if count}
    assert same_splits(text(FilesConfig(name, tmp_path / name)), expected), "from the cache"


@pytest.mark.parametrize("name", WRITERS)
def test_an_excerpt_of_the_scientific_data_gives_the_same(name: str, scientific: Path, tmp_path: Path) -> None:
    lines = next(scientific.glob("*users*.tsv")).read_text(encoding="utf-8").splitlines()[:400]
    users = {line.split("\t")[0]: line.split("\t")[1].split() for line in lines}
    wanted = {item for items in users.values() for item in items}
    every = (line.split("\t") for line in next(scientific.glob("*items.tsv")).read_text(encoding="utf-8").splitlines())
    titles = {item: title for item, title in every if item in wanted}
    expected = load_amazon(write_amazon(tmp_path / "amazon", titles, users), needs_images=False)
    rows = [(user, item, n) for user, items in users.items() for n, item in enumerate(items)]
    found = text(WRITERS[name](tmp_path / name, titles, rows))
    assert found.digest == expected.digest
    assert same_splits(found, expected)


def test_small_chunks_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = text(write_table(tmp_path / "a"))
    monkeypatch.setattr(columns, "CHUNK_ROWS", 3)
    monkeypatch.setenv("IISAN_BENCH_CACHE", str(tmp_path / "other"))
    found = text(FilesConfig("table", tmp_path / "a"))
    assert (found.digest, found.dropped, found.notes) == (expected.digest, expected.dropped, expected.notes)


def test_parquet_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    expected = text(write_table(tmp_path / "a"))
    folder = tmp_path / "b"
    folder.mkdir()
    pd.DataFrame(TITLES.items(), columns=["item", "title"]).to_parquet(folder / "items.parquet")
    frame = pd.DataFrame(ROWS, columns=["user", "item", "timestamp"])
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], unit="s")
    frame.to_parquet(folder / "interactions.parquet")
    assert text(FilesConfig("table", folder)).digest == expected.digest


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path)
    (tmp_path / "items.csv").rename(tmp_path / "items.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"items\.parquet: reading parquet needs pyarrow: pip install .*\[parquet\]"):
        text(FilesConfig("table", tmp_path))


# Order


def test_time_decides_the_order_and_rows_break_ties(tmp_path: Path) -> None:
    rows = [("u", "B5", 30), ("u", "B1", 10), ("u", "B9", 20), ("u", "B2", 20), ("u", "B7", 20), ("u", "B0", 5)]
    found = text(write_table(tmp_path / "timed", rows=rows))
    assert [found.item_ids[item] for item in found.sequences[0]] == ["B0", "B1", "B9", "B2", "B7", "B5"]
    assert any("3 interactions have the time of another of the user" in note for note in found.notes)
    in_order = text(write_table(tmp_path / "plain", rows=rows, timed=False))
    assert [in_order.item_ids[item] for item in in_order.sequences[0]] == ["B5", "B1", "B9", "B2", "B7", "B0"]


def test_rows_of_users_may_be_mixed(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(ROWS))
    found, expected = (
        text(write_table(tmp_path / "a", rows=[ROWS[n] for n in order])),
        text(write_table(tmp_path / "b")),
    )

    def by_user(catalogue: Catalogue) -> dict[str, list[str]]:
        pairs = zip(catalogue.user_ids, catalogue.sequences, strict=True)
        return {user: [catalogue.item_ids[item] for item in items] for user, items in pairs}

    # "NA" has the same item three times, at different moments.
    assert by_user(found) == by_user(expected)
    assert found.item_ids == expected.item_ids, "items keep the order of their own table"


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S+02:00"])
def test_dates_order_as_numbers_do(form: str, tmp_path: Path) -> None:
    rows = [("u", f"B{n}", (pd.Timestamp("2024-01-31") + pd.Timedelta(days=37 * n)).strftime(form)) for n in range(6)]
    shuffled = [rows[n] for n in (3, 0, 5, 1, 4, 2)]
    found = text(write_table(tmp_path, rows=shuffled))
    assert [found.item_ids[item] for item in found.sequences[0]] == [f"B{n}" for n in range(6)]


# What is left out


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    config = write_table(tmp_path, rows=[*ROWS, ("long", "gone", 1), ("long", "B28", 2), ("long", "B28", 2)])
    titles = [*TITLES.items(), ("B4", "a second title"), ("B5", "a third")]
    write_csv(tmp_path / "items.csv", ["item", "title"], [(i, "" if i == "B28" else t) for i, t in titles])
    found = text(config)
    assert found.dropped["rows that name an item again"] == 2
    assert found.dropped["items without a title"] == 1
    assert found.dropped["interactions with items that have no row"] == 1
    assert found.dropped["interactions with items without a title"] == 2
    assert "B28" not in found.item_ids
    assert found.titles[found.item_ids.index("B4")] == "Thing & 4, large"


def test_rows_that_are_there_twice_are_kept_and_said(tmp_path: Path) -> None:
    found = text(write_table(tmp_path, rows=[*ROWS, ROWS[3], ROWS[3]]))
    assert any(note.startswith("2 interactions repeat another with the same user, item") for note in found.notes)
    assert len(found.sequences[0]) == 13


# Columns of another name


def test_columns_by_option(tmp_path: Path) -> None:
    write_csv(tmp_path / "items.csv", ["price", "asin", "name"], [(1, item, title) for item, title in TITLES.items()])
    write_csv(tmp_path / "interactions.csv", ["asin", "when", "who"], [(i, t, u) for u, i, t in ROWS])
    names = {"item": "asin", "title": "name", "user": "who", "timestamp": "when"}
    found = text(FilesConfig("table", tmp_path, columns=names))
    assert found.digest == text(write_table(tmp_path / "usual")).digest


def test_recbole_fields_by_option(tmp_path: Path) -> None:
    found = text(FilesConfig("recbole", write_recbole(tmp_path).folder, columns={"title": "genre"}))
    assert set(found.titles) == {"x y"}


# Refusals

BAD_TABLES = [
    ("items.csv", None, r"no file named items\.csv or items\.parquet"),
    ("items.csv", "", r"items\.csv: empty"),
    ("items.csv", "item,title\n", r"items\.csv: no item with a title"),
    (
        "items.csv",
        "id,title\nB1,x\n",
        r"items\.csv: no column 'item' \(item\); there are 'id', 'title'; choose one with --item-column",
    ),
    ("items.csv", "item;title\nB1;x\n", r"items\.csv: no column 'item' \(item\); .*'item;title'; separate them by ','"),
    ("items.csv", "item,title,title\nB1,x,y\n", r"two columns are named 'title'"),
    ("items.csv", "item,title\nB1,a,b\n", r"items\.csv: line 2: 3 fields, but the file has 2 columns"),
    ("items.csv", "item,title\nB1,a\nB2,a,b\n", r"items\.csv: line 3: 3 fields, but the file has 2 columns"),
    ("items.csv", 'item,title\nB1,"a\n', r"items\.csv: line 2: a quotation mark opens a field and none closes it"),
    ("items.csv", b"item,title\nB1,\xff\n", r"items\.csv: cannot be read: not UTF-8"),
    ("items.csv", "item,title\nB1,x\n ,y\n", r"items\.csv: row 2: no item"),
    ("interactions.csv", "user,item\n", r"interactions\.csv: no interactions"),
    ("interactions.csv", "user,item\nu,B1\n,B2\n", r"interactions\.csv: row 2: no user"),
    (
        "interactions.csv",
        "user,item\nu\x00,B1\n",
        r"interactions\.csv: row 1: user 'u\\x00' contains control characters",
    ),
    ("interactions.csv", "user,item\nu,1\nu,2\nu,B1\n", r"2 of 3 interactions name items that are not in items\.csv"),
    ("interactions.csv", "user,item\nu,B1\n", r"no user has 5 interactions"),
    ("interactions.csv", "user,item,timestamp\nu,B1,1\nu,B2,x\n", r"row 2: timestamp 'x' is not a number"),
    ("interactions.csv", "user,item,timestamp\nu,B1,1\nu,B2,inf\n", r"row 2: timestamp 'inf' is not a number"),
    ("interactions.csv", "user,item,timestamp\nu,B1,\nu,B2,2\n", r"row 1: timestamp '' is not a date"),
    ("interactions.csv", "user,item,timestamp\nu,B1,2024-13-01\n", r"row 1: timestamp '2024-13-01' is not a date"),
]


@pytest.mark.parametrize(("name", "content", "said"), BAD_TABLES)
def test_refusals_of_tables(name: str, content: str | bytes | None, said: str, tmp_path: Path) -> None:
    config = write_table(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=said) as caught:
        text(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "header", "said"),
    [
        ("a.item", "item_id:token\tprice:float", r"a\.item: no field title or .*choose with --title-column: item_id"),
        ("a.item", "item_id:token\ttitle", r"a\.item: line 1: 'title' is not a field of an atomic file"),
        ("a.inter", "user_id:token\tiid:token", r"a\.inter: no field 'item_id' \(item\); choose with --item-column: "),
    ],
)
def test_refusals_of_atomic_files(name: str, header: str, said: str, tmp_path: Path) -> None:
    config = write_recbole(tmp_path)
    (tmp_path / name).write_text(f"{header}\na\tb\n")
    with pytest.raises(UserError, match=said):
        text(config)


def test_several_files_that_could_be_meant(tmp_path: Path) -> None:
    config = write_recbole(tmp_path)
    (tmp_path / "b.inter").write_text("user_id:token\titem_id:token\n")
    with pytest.raises(UserError, match=r"several files are named \*\.inter: a\.inter, b\.inter"):
        text(config)
    with pytest.raises(UserError, match=r"--data-dir .*nowhere: no such folder"):
        text(FilesConfig("table", tmp_path / "nowhere"))


# Pictures


def picture(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 9), (level,) * 3).save(path)


def levels(catalogue: Catalogue) -> dict[str, int]:
    assert catalogue.images is not None
    return {item: int(pixels.mean()) for item, pixels in zip(catalogue.item_ids, catalogue.images, strict=True)}


@pytest.mark.parametrize(("name", "folder"), [("table", "images"), ("recbole", "images"), ("microlens", "X_covers")])
def test_pictures_named_by_the_item(name: str, folder: str, tmp_path: Path) -> None:
    config = WRITERS[name](tmp_path)
    for number, item in enumerate(TITLES):
        picture(tmp_path / folder / f"{item}.jpg", 8 * number)
    found = levels(load_files(config, 4))
    assert found == {item: pytest.approx(8 * list(TITLES).index(item), abs=2) for item in found}
    (tmp_path / folder / "B1.jpg").unlink()
    with pytest.raises(UserError, match=r"B1\.jpg: no such file"):
        load_files(config, 4)


def test_pictures_named_by_a_column(tmp_path: Path) -> None:
    config = write_table(tmp_path)
    rows = [(item, title, f"pics/{n}.png") for n, (item, title) in enumerate(TITLES.items())]
    write_csv(tmp_path / "items.csv", ["item", "title", "image"], rows)
    for number in range(len(TITLES)):
        picture(tmp_path / "pics" / f"{number}.png", number)
    found = levels(load_files(config, 4))
    assert found == {item: list(TITLES).index(item) for item in found}
    elsewhere = FilesConfig("table", tmp_path, image_dir=str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pics").rename(tmp_path / "elsewhere" / "pics")
    assert levels(load_files(elsewhere, 4)) == found


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", "a/../../b.png", "a\\b.png"])
def test_pictures_outside_of_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    config = write_table(tmp_path)
    write_csv(tmp_path / "items.csv", ["item", "title", "image"], [(item, "t", name) for item in TITLES])
    with pytest.raises(UserError, match=r"items\.csv: item 'B1': .* cannot be the name of an image file"):
        load_files(config, 4)


def test_a_linked_folder_that_leads_out_is_not_read(tmp_path: Path) -> None:
    config = write_table(tmp_path / "data")
    rows = [(item, title, f"pics/{n}.png") for n, (item, title) in enumerate(TITLES.items())]
    write_csv(tmp_path / "data" / "items.csv", ["item", "title", "image"], rows)
    for number in range(len(TITLES)):
        picture(tmp_path / "secret" / f"{number}.png", number)
    (tmp_path / "data" / "pics").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="a link that leads out of the image folder"):
        load_files(config, 4)


def test_items_without_a_picture_leave_before_users_are_counted(tmp_path: Path) -> None:
    write_table(tmp_path)
    for item in set(TITLES) - {"B21", "B22"}:  # "007" has four items left then, "long" keeps its thirteen
        picture(tmp_path / "images" / f"{item}.jpg", 9)
    found = load_files(FilesConfig("table", tmp_path, policies=Policies(missing="drop-item")), 4)
    assert found.user_ids == ("long", "NA")
    assert found.dropped["items without an image file"] == 2
    assert found.dropped["interactions with these items"] == 2
    assert found.images is not None
    assert len(found.images) == len(found.item_ids)
