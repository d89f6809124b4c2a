"""The three ways in which MicroLens' titles were released, against one another and against Python's own CSV."""

import csv
from pathlib import Path

import pytest

from bench.data.catalogue import Catalogue
from bench.data.readers.file_layouts import find_layout
from bench.data.readers.table_dataset import FilesConfig, load_files
from bench.data.readers.tables.columns import CHUNK_ROWS, TableFile, read_chunks
from bench.utils.errors import UserError
from tests.data.tables import ROWS, TITLES, text, write_csv, write_microlens

NAMES = {"50k": "MicroLens-50k_titles.csv", "100k": "MicroLens-100k_title_en.csv", "1M": "MicroLens-1M_title.csv"}


def write_release(folder: Path, release: str, titles: dict[str, str]) -> FilesConfig:
    config = write_microlens(folder, titles)
    (folder / NAMES["50k"]).unlink()
    if release == "1M":
        (folder / NAMES[release]).write_text("".join(f"{item},{title}\n" for item, title in titles.items()))
    else:
        header = [["item", "title"]] if release == "50k" else []
        first, *rest = [*header, *map(list, titles.items())]
        write_csv(folder / NAMES[release], first, rest)
    return config


def known(catalogue: Catalogue) -> tuple[object, ...]:
    return catalogue.item_ids, catalogue.titles, catalogue.user_ids, catalogue.dropped


@pytest.mark.parametrize("release", ["100k", "1M"])
def test_a_release_without_a_header_gives_what_one_with_a_header_gives(release: str, tmp_path: Path) -> None:
    expected = known(text(write_release(tmp_path / "a", "50k", TITLES)))
    config = write_release(tmp_path / release, release, TITLES)
    assert not (tmp_path / release / NAMES[release]).read_text().startswith("item")
    assert known(text(config)) == expected
    assert known(text(config)) == expected, "from the cache"


def titles_of(folder: Path) -> dict[str, str]:
    chunks = list(read_chunks(find_layout("microlens", folder, {}).items))
    return {
        item: title for chunk in chunks for item, title in zip(chunk.text("item"), chunk.text("title"), strict=True)
    }


def test_what_csv_quotes_is_unquoted_without_a_header_too(tmp_path: Path) -> None:
    titles = {"1": 'He said "go", twice', "2": "two\nlines", "3": "", "4": "plain"}
    write_release(tmp_path, "100k", titles)
    with (tmp_path / NAMES["100k"]).open(newline="") as file:
        assert titles_of(tmp_path) == dict(csv.reader(file)) == titles


def test_lines_may_hold_commas_and_quotation_marks_that_nothing_closes(tmp_path: Path) -> None:
    write_microlens(tmp_path)
    (tmp_path / NAMES["50k"]).unlink()
    lines = b'\xef\xbb\xbf1,a "b, c\r\n2,"whole, ""field"""\n\n3,"\n4\n5,"a" and "b"\n6,"a\n7,b"'
    (tmp_path / NAMES["1M"]).write_bytes(lines)
    found = {"1": 'a "b, c', "2": 'whole, "field"', "3": '"', "4": "", "5": '"a" and "b"', "6": '"a', "7": 'b"'}
    assert titles_of(tmp_path) == found


def test_lines_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines.csv"
    path.write_text("".join(f"{n},t\n" for n in range(7)))
    monkeypatch.setattr("bench.data.readers.tables.columns.CHUNK_ROWS", 3)
    assert CHUNK_ROWS > 3
    file = TableFile(path, {"item": "item", "title": "title"}, quoted=False, names=("item", "title"))
    assert [(chunk.first, chunk.text("item").tolist()) for chunk in read_chunks(file)] == [
        (1, ["0", "1", "2"]),
        (4, ["3", "4", "5"]),
        (7, ["6"]),
    ]


def test_the_same_bytes_as_another_release_are_another_dataset(tmp_path: Path) -> None:
    """The cache must not serve one for the other: with a header the first item would be its name."""
    config = write_release(tmp_path, "50k", TITLES)
    text(config)
    (tmp_path / NAMES["50k"]).rename(tmp_path / NAMES["100k"])
    assert text(config).dropped.get("interactions with items that have no row", 0) == 0
    assert {"item", *TITLES} == set(titles_of(tmp_path))


@pytest.mark.parametrize("release", ["100k", "1M"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file, or an empty first line"),
        (b"1,\xff\n", "not UTF-8"),
        (b"B1,a\n,b\n", r"row 2: no item"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(content: bytes, reason: str, release: str, tmp_path: Path) -> None:
    config = write_release(tmp_path, release, TITLES)
    (tmp_path / NAMES[release]).write_bytes(content)
    with pytest.raises(UserError, match=f"{NAMES[release]}: .*{reason}"):
        load_files(config, None)


def test_rows_of_three_fields_are_refused(tmp_path: Path) -> None:
    config = write_release(tmp_path, "100k", TITLES)
    for content in ("B1,a\nB2,b,c\n", "B1,a,b\n"):
        (tmp_path / NAMES["100k"]).write_text(content)
        with pytest.raises(UserError, match=r"title_en\.csv: .*(fields|columns)"):
            load_files(config, None)


def test_two_releases_in_one_folder_and_a_column_that_has_no_name(tmp_path: Path) -> None:
    config = write_release(tmp_path, "100k", TITLES)
    with pytest.raises(UserError, match=r"title_en\.csv: has no header, so --title-column"):
        find_layout("microlens", config.folder, {"title": "name"})
    write_csv(tmp_path / NAMES["50k"], ["item", "title"], ROWS[:1])
    with pytest.raises(UserError, match=r"\*_titles\.csv and \*_title_en\.csv; remove all but one"):
        text(config)
