"""The Amazon loader: counts against the real files, every refusal with file and line."""

import html
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.data.readers.amazon import load_amazon
from bench.data.readers.amazon_files import decode_title
from bench.utils.errors import UserError
from tests.data.small_amazon import ITEMS, ITEMS_FILE, TITLES, USERS, USERS_FILE, replaced, write_amazon


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_amazon(tmp_path / "data", TITLES, USERS)


# The real files


def test_scientific_counts(scientific: Path) -> None:
    catalogue = load_amazon(scientific, needs_images=False)
    assert len(catalogue.user_ids) == 12_076
    assert len(catalogue.item_ids) == 20_314
    assert sum(map(len, catalogue.sequences)) == 81_711
    assert catalogue.images is None
    raw_users = next(scientific.glob("*users*.tsv")).read_text().splitlines()
    raw_items = next(scientific.glob("*items.tsv")).read_text().splitlines()
    assert len(raw_items) == 20_825
    interactions = sum(len(line.split("\t")[1].split(" ")) for line in raw_users)
    assert catalogue.dropped == {
        "users with fewer than 5 interactions": 0,
        "interactions of these users": 0,
        "interactions before a user's last 13": interactions - 81_711,
        "items in no sequence that is left": 20_825 - 20_314,
    }


def test_scientific_content(scientific: Path) -> None:
    catalogue = load_amazon(scientific, needs_images=False)
    for user, line in enumerate(next(scientific.glob("*users*.tsv")).read_text().splitlines()):
        name, items = line.split("\t")
        assert catalogue.user_ids[user] == name
        assert [catalogue.item_ids[item] for item in catalogue.sequences[user]] == items.split(" ")[-13:]
    lines = next(scientific.glob("*items.tsv")).read_text().splitlines()
    raw = dict(line.split("\t") for line in lines)
    remaining = set(catalogue.item_ids)
    assert [item for item in raw if item in remaining] == list(catalogue.item_ids)
    for item, title in zip(catalogue.item_ids, catalogue.titles, strict=True):
        # Python's lenient decoder agrees on these titles once it has run as often as needed.
        assert title == " ".join(html.unescape(html.unescape(raw[item])).split())
        assert title
    assert "7312 of 20825 titles" in catalogue.notes[0]
    assert "2 of them encoded more than once" in catalogue.notes[0]


def test_scientific_from_the_cache_is_the_same(scientific: Path, cache: Path) -> None:
    first, second = (load_amazon(scientific, needs_images=False) for _ in range(2))
    assert list(cache.rglob("catalogue.json"))
    assert first.digest == second.digest
    assert (first.item_ids, first.titles, first.user_ids) == (second.item_ids, second.titles, second.user_ids)
    assert all(map(np.array_equal, first.sequences, second.sequences))
    assert (first.dropped, first.notes) == (second.dropped, second.notes)


# Text


def test_short_users_old_interactions_and_unused_items_are_dropped_and_counted(folder: Path) -> None:
    catalogue = load_amazon(folder, needs_images=False)
    assert catalogue.user_ids == ("long", "twice")
    assert catalogue.item_ids == (*ITEMS[2:15], "B016")
    assert [catalogue.item_ids[item] for item in catalogue.sequences[0]] == ITEMS[2:15]
    assert [catalogue.item_ids[item] for item in catalogue.sequences[1]] == USERS["twice"]
    assert catalogue.dropped == {
        "users with fewer than 5 interactions": 1,
        "interactions of these users": 4,
        "interactions before a user's last 13": 2,
        "items in no sequence that is left": 6,
    }
    assert catalogue.notes == (), "there is nothing to say about plain titles that all differ"


@pytest.mark.parametrize(
    ("raw", "title", "rounds"),
    [
        ("plain & simple; A&B", "plain & simple; A&B", 0),
        ("R&amp;D 3&quot; &deg; &#39;x&#39; &#x2019;", "R&D 3\" ° 'x' ’", 1),
        ("9 x 1&amp;quot;, Black", '9 x 1", Black', 2),
        ("9 x 1&amp;quot, Black", '9 x 1", Black', 2),
        ("1/4&quot x 2", '1/4" x 2', 1),
        ("Voltage&current &times2 &notes &quoted &copy", "Voltage&current &times2 &notes &quoted &copy", 0),
        ("&unknown; &#xZZ; &;", "&unknown; &#xZZ; &;", 0),
        ("  two&nbsp;&nbsp;words ", "two words", 1),
        ("a&#10;b&Tab;c", "a b c", 1),
        ("&amp;amp;lt;", "<", 3),
        ("&#0;&#xD800;", "\ufffd\ufffd", 1),
        ("&#" + "9" * 5000 + ";", "&#" + "9" * 5000 + ";", 0),
        ("&#٣٩;", "&#٣٩;", 0),
    ],
)
def test_titles_are_decoded(raw: str, title: str, rounds: int) -> None:
    assert decode_title(raw) == (title, rounds)


def test_line_ends_byte_order_marks_and_odd_characters_in_titles_are_accepted(folder: Path) -> None:
    expected = load_amazon(folder, needs_images=False)
    items, users = folder / "x_items.tsv", folder / "x_users.tsv"
    for path in (items, users):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert load_amazon(folder, needs_images=False).digest == expected.digest
    items.write_bytes(items.read_bytes().replace(b"Thing B005", "Thing\u2028 B005\x85é".encode()))
    assert load_amazon(folder, needs_images=False).titles[3] == "Thing B005 é"
    users.write_bytes(users.read_bytes().rstrip())
    assert load_amazon(folder, needs_images=False).sequences[1].tolist() == expected.sequences[1].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced(ITEMS_FILE, b"B004\t", b"B003\t"), "x_items.tsv:5: item 'B003' is already in line 4"),
        (
            replaced(ITEMS_FILE, b"B004\t", b"B004 "),
            "x_items.tsv:5: 1 tab-separated fields, expected 2: 'B004 Thing B004'",
        ),
        (replaced(ITEMS_FILE, b"B004\t", b"B004\t\t"), "x_items.tsv:5: 3 tab-separated fields"),
        (replaced(ITEMS_FILE, b"B004\t", b"\t"), "x_items.tsv:5: '' is no item id"),
        (replaced(ITEMS_FILE, b"B004\t", b"B 04\t"), "x_items.tsv:5: 'B 04' is no item id"),
        (replaced(ITEMS_FILE, b"Thing B004", b" &nbsp; "), "x_items.tsv:5: item 'B004' has no title"),
        (replaced(ITEMS_FILE, b"B004\t", b"\nB004\t"), "x_items.tsv:5: an empty line"),
        (replaced(ITEMS_FILE, b"Thing B004", b"Thing \xe9"), "x_items.tsv:5: not UTF-8"),
        (replaced(ITEMS_FILE, b"Thing B004", b"Thing \0"), "x_items.tsv:5: contains a NUL"),
        (replaced(USERS_FILE, b"twice\t", b"long\t"), "x_users.tsv:2: user 'long' is already in line 1"),
        (replaced(USERS_FILE, b"B017", b"B999"), "x_users.tsv:3: item 'B999' is not in x_items.tsv"),
        (replaced(USERS_FILE, b"B017", b"\x1b[31m"), "x_users.tsv:3: item '\\x1b[31m' is not"),
        (replaced(ITEMS_FILE, b"B004\t", b"B\x0704\t"), "x_items.tsv:5: 'B\\x0704' is no item id"),
        (replaced(ITEMS_FILE, b"B004\t", "B\u202e04\t".encode()), "x_items.tsv:5: 'B\\u202e04' is no item id"),
        (replaced(USERS_FILE, b"twice\t", b"tw\rice\t"), "x_users.tsv:2: 'tw\\rice' is no user id"),
        (replaced(USERS_FILE, b"twice\t", b" \t"), "x_users.tsv:2: no user id"),
        (replaced(USERS_FILE, b"B017 B003 B003 B018", b" "), "x_users.tsv:3: user 'short' has no items"),
        (replaced(USERS_FILE, b"B017 B003", b"B017\tB003"), "x_users.tsv:3: 3 tab-separated fields"),
        (replaced(USERS_FILE, b"B017 B003", b"B017,B003"), "x_users.tsv:3: item 'B017,B003' is not"),
        (lambda folder: (folder / USERS_FILE).write_bytes(b""), "x_users.tsv: empty file"),
        (lambda folder: (folder / ITEMS_FILE).write_bytes(b"\xef\xbb\xbf\r\n\n"), "x_items.tsv: empty file"),
        (lambda folder: (folder / ITEMS_FILE).write_bytes("B000\tThing".encode("utf-16")), "x_items.tsv:1: "),
        (lambda folder: (folder / ITEMS_FILE).unlink(), "no file named *items.tsv"),
        (lambda folder: (folder / USERS_FILE).unlink(), "no file named *users*.tsv"),
        (
            lambda folder: (folder / "b_users_2.tsv").touch(),
            "several files are named *users*.tsv: b_users_2.tsv, x_use",
        ),
        (lambda folder: (folder / "a_items.tsv").touch(), "several files are named *items.tsv: a_items.tsv, x_items"),
        (lambda folder: (folder / USERS_FILE).write_text("a\tB001 B002\n"), "x_users.tsv: no user has 5 items"),
    ],
)
def test_bad_files_are_refused_with_file_and_line(folder: Path, change: Callable[[Path], object], message: str) -> None:
    change(folder)
    with pytest.raises(UserError) as caught:
        load_amazon(folder, needs_images=False)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_bad_folders(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="no such folder of Amazon data"):
        load_amazon(tmp_path / "absent", needs_images=False)
    with pytest.raises(UserError, match="no such folder of Amazon data"):
        load_amazon(folder / "x_items.tsv", needs_images=False)
    (folder / "x_items.tsv").rename(folder / "users_items.tsv")
    (folder / "x_users.tsv").unlink()
    with pytest.raises(UserError, match=r"users_items.tsv: matches \*items.tsv and \*users\*.tsv"):
        load_amazon(folder, needs_images=False)


def test_hidden_files_and_folders_are_not_taken_for_data(folder: Path) -> None:
    (folder / "._x_items.tsv").write_bytes(b"\0")
    (folder / "old_users.tsv").mkdir()
    assert len(load_amazon(folder, needs_images=False).user_ids) == 2


def test_a_changed_file_is_read_again_and_a_renamed_one_is_not(folder: Path, cache: Path) -> None:
    first = load_amazon(folder, needs_images=False)
    (folder / "x_users.tsv").rename(folder / "y_users_2.tsv")
    assert load_amazon(folder, needs_images=False).digest == first.digest
    assert len(list(cache.rglob("catalogue.json"))) == 1
    replaced("y_users_2.tsv", b"twice\t", b"other\t")(folder)
    assert load_amazon(folder, needs_images=False).user_ids == ("long", "other")


def test_damage_in_the_cache_is_never_served(folder: Path, cache: Path) -> None:
    first = load_amazon(folder, needs_images=False)
    [path] = cache.rglob("sequences.npy")
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"\1\0\0\0")
    assert load_amazon(folder, needs_images=False).sequences[1].tolist() == first.sequences[1].tolist()
    assert path.read_bytes() == content


def test_reading_needs_no_torch() -> None:
    code = "import sys, bench.data.readers.amazon, bench.data.splits; sys.exit('torch' in sys.modules)"
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0
