"""Tables as other programs export them: damage that gives wrong figures is refused, warned of or noted."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.data.readers.amazon import load_amazon
from bench.data.readers.images import Policies
from bench.data.readers.table_dataset import FilesConfig, load_files
from bench.data.readers.tables import columns
from bench.data.readers.tables.id_forms import difference
from bench.utils.errors import UserError
from tests.data.small_amazon import write_amazon
from tests.data.tables import text

ITEMS = [f"i{n:02d}" for n in range(40)]
ROWS = [(f"u{u}", ITEMS[(7 * u + 3 * k) % 40], 1_700_000_000 + 100 * u + k) for u in range(20) for k in range(9)]
LINES = [f"{user},{item},{time}" for user, item, time in ROWS]
TITLES = [f"{item},thing {item}" for item in ITEMS]


def write(
    folder: Path,
    titles: Sequence[str] = TITLES,
    lines: Sequence[str] = LINES,
    names: str = "user,item,timestamp",
    end: str = "\n",
) -> FilesConfig:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items.csv").write_bytes((end.join(["item,title", *titles]) + end).encode())
    (folder / "interactions.csv").write_bytes((end.join([names, *lines]) + end).encode())
    return FilesConfig("table", folder)


def write_recbole(folder: Path, names: str, lines: Sequence[str]) -> FilesConfig:
    (folder / "a.item").write_text(
        "item_id:token\ttitle:token_seq\n" + "".join(f"{i}\tthing {i}\n" for i in ITEMS), encoding="utf-8"
    )
    (folder / "a.inter").write_text("\n".join([names, *lines]) + "\n", encoding="utf-8")
    return FilesConfig("recbole", folder)


def write_parquet(folder: Path, interactions: pd.DataFrame, items: pd.DataFrame | None = None) -> FilesConfig:
    pytest.importorskip("pyarrow")
    folder.mkdir(parents=True, exist_ok=True)
    items = pd.DataFrame({"item": range(40), "title": ITEMS}) if items is None else items
    items.to_parquet(folder / "items.parquet")
    interactions.to_parquet(folder / "interactions.parquet")
    return FilesConfig("table", folder)


# Quotation marks and line breaks


@pytest.mark.parametrize("last", ['27" monitor', '"27 inch" monitor', 'the ""best"" 27" monitor'])
def test_a_quotation_mark_that_opens_a_title_does_not_eat_rows(last: str, tmp_path: Path) -> None:
    titles = [*TITLES]
    titles[5], titles[9] = 'i05,"12 inch board', f"i09,{last}"
    with pytest.raises(UserError, match=r"items\.csv: line 7: a quotation mark opens a field and none closes it"):
        text(write(tmp_path, titles))


def test_rows_inside_a_title_that_interactions_name_are_an_error(tmp_path: Path) -> None:
    """Both quotation marks are where a field begins and ends, so that the syntax is right."""
    titles = [*TITLES]
    titles[5], titles[9] = 'i05,"12 inch board', 'i09,monitor 27"'
    with pytest.raises(UserError, match=r"items\.csv: row 6: a quotation mark swallows the row of item 'i06'"):
        text(write(tmp_path, titles))


def test_rows_inside_of_a_review_are_warned_of(tmp_path: Path) -> None:
    lines = [f"{line},fine" for line in LINES]
    lines[3], lines[6] = f'{LINES[3]},"fine', f'{LINES[6]},fine"'
    [warning] = text(write(tmp_path, lines=lines, names="user,item,timestamp,review")).warnings
    assert warning.startswith("interactions.csv: 3 lines inside of quotation marks look like rows of their own (the fi")
    assert "row 4" in warning


def test_line_breaks_inside_a_title_are_kept_and_counted(tmp_path: Path) -> None:
    titles = [*TITLES]
    titles[4], titles[8] = 'i04,"two\nlines, and ""more"""', 'i08,"two\r\nlines"'
    found = text(write(tmp_path, titles))
    assert (found.titles[4], found.titles[8], len(found.titles)) == ('two lines, and "more"', "two lines", 40)
    assert "items.csv: 2 rows hold line breaks (the first: row 5)." in found.notes
    assert found.warnings == ()


def test_quotation_marks_escaped_by_a_backslash_are_refused(tmp_path: Path) -> None:
    titles = ['i00,"12\\" board"', *TITLES[1:]]
    with pytest.raises(UserError, match=r"items\.csv: line 2: a quotation mark opens a field"):
        text(write(tmp_path, titles))


def test_a_quotation_mark_inside_a_field_is_text(tmp_path: Path) -> None:
    titles = ['i00,27" monitor', *TITLES[1:]]
    assert text(write(tmp_path, titles)).titles[0] == '27" monitor'


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(end: str, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    assert text(write(tmp_path / "a", end=end)).digest == text(write(tmp_path / "b")).digest


def test_what_follows_a_nul_is_kept(tmp_path: Path) -> None:
    assert text(write(tmp_path, ['i00,"a\x00b"', *TITLES[1:]])).titles[0] == "a\x00b"


def test_a_title_cut_in_two_by_a_line_break_without_quotation_marks(tmp_path: Path) -> None:
    titles = [row.replace("thing ", "thing\n") if n % 8 == 0 else row for n, row in enumerate(TITLES)]
    found = text(write(tmp_path, titles))
    assert found.warnings[0].startswith(
        "items.csv: 5 of 45 rows have fewer fields than the file has columns (the first"
    )
    few = text(write(tmp_path / "few", [TITLES[0].replace("thing ", "thing\n"), *TITLES[1:]]))
    assert any("1 of 41 rows have fewer fields" in note for note in few.notes)
    assert few.warnings == ()


# Types


def test_one_odd_value_costs_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "CHUNK_ROWS", 64)
    frame = pd.DataFrame({"user": [u for u, _, _ in ROWS], "item": [float(i[1:]) for _, i, _ in ROWS]})
    frame.loc[5, "item"] = 0.5
    found = text(write_parquet(tmp_path, frame))
    assert found.dropped == {"interactions with items that have no row": 1}
    assert sum(map(len, found.sequences)) == 179
    assert found.warnings == ()


def test_a_loss_above_a_few_percent_is_a_warning(tmp_path: Path) -> None:
    lines = [line.replace(",i", ",0") if n % 9 == 0 else line for n, line in enumerate(LINES)]
    found = text(write(tmp_path, lines=lines))
    assert found.dropped["interactions with items that have no row"] == 20
    assert found.warnings == (
        "interactions.csv: 20 of 180 interactions name items that are not in items.csv, such as '000', while the ids "
        "there are such as 'i00'; they are left out.",
    )
    assert text(FilesConfig("table", tmp_path)).warnings == found.warnings, "from the cache"
    untitled = text(write(tmp_path / "b", ["i00,", "i01,", *TITLES[2:]]))
    assert [w[:70] for w in untitled.warnings] == [
        "interactions.csv: 8 of 180 interactions name items without a title in "
    ]


@pytest.mark.parametrize(("kind", "beyond"), [(np.float64, 2**53), (np.float32, 2**24)])
def test_ids_that_a_floating_point_number_cannot_tell_apart(kind: type, beyond: int, tmp_path: Path) -> None:
    ids = np.array([2 * beyond + n for n in range(40)], dtype=kind)
    items = pd.DataFrame({"item": ids, "title": ITEMS})
    with pytest.raises(UserError, match=rf"items\.parquet: item .* floating-point number beyond {beyond}"):
        text(write_parquet(tmp_path, pd.DataFrame({"user": ["u"] * 5, "item": ids[:5]}), items))


def test_parquet_types_that_are_text(tmp_path: Path) -> None:
    plain = text(write(tmp_path / "plain", [f"{n},thing" for n in range(40)], [f"{u},{int(i[1:])}" for u, i, _ in ROWS],
                       "user,item"))  # fmt: skip
    items = pd.DataFrame({"item": range(40), "title": [b"thing"] * 40})
    numbers = [int(item[1:]) for _, item, _ in ROWS]
    for name, values in {
        "decimal": [Decimal(f"{n}.00") for n in numbers],
        "category": pd.Categorical(map(str, numbers)),
        "bytes": [str(n).encode() for n in numbers],
    }.items():
        frame = pd.DataFrame({"user": [u for u, _, _ in ROWS], "item": values})
        assert text(write_parquet(tmp_path / name, frame, items)).digest == plain.digest, name
    items["title"] = [["a"]] * 40
    with pytest.raises(UserError, match=r"items\.parquet: the column of titles is of type list"):
        text(write_parquet(tmp_path / "list", frame, items))


# Ids that differ in form


@pytest.mark.parametrize(
    ("strange", "known", "said"),
    [
        (["108775003"], ["0108775003"], "'108775003' instead of '0108775003': the ids differ in leading zeros"),
        (["3.0"], ["3"], "'3.0' instead of '3': the ids differ in a \".0\" at the end"),
        (["7.0"], ["007"], "'7.0' instead of '007': the ids differ in leading zeros and a \".0\" at the end"),
        (["1.2e+08"], ["120000000"], "'1.2e+08' instead of '120000000': the ids differ in scientific notation"),
        (["12001"], ["12,001"], "'12001' instead of '12,001': the ids differ in thousands separators"),
        (['"a"'], ["a"], "'\"a\"' instead of 'a': the ids differ in quotation marks around them"),
        (["a "], ["a"], "'a ' instead of 'a': the ids differ in white space around them"),
        (["b00x"], ["B00X"], "'b00x' instead of 'B00X': the ids differ in upper and lower case"),
        (["x", "3.0"], ["3"], "'3.0' instead of '3'"),
        (["x", "y", "3.0"], ["3"], "such as 'x', while the ids there are such as '3'"),
        ([], ["3"], ""),
    ],
)
def test_how_ids_differ(strange: list[str], known: list[str], said: str) -> None:
    assert difference(strange, known).startswith(said)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (lambda n: f"{n}", r"'108775003' instead of '0108775003': the ids differ in leading zeros; write them alike"),
        (lambda n: f"0{n}.0", r"'0108775003\.0' instead of '0108775003': the ids differ in a .\.0. at the end"),
        (lambda n: f"x{n}", r"such as 'x108775003', while .* '0108775000': the two files do not belong together"),
    ],
)
def test_tables_whose_ids_differ_show_an_id_of_each(form: object, said: str, tmp_path: Path) -> None:
    assert callable(form)
    numbers = {item: 108775000 + n for n, item in enumerate(ITEMS)}
    lines = [f"{user},{form(numbers[item])},{time}" for user, item, time in ROWS[1:]]
    with pytest.raises(UserError, match=rf"179 of 179 interactions name items that are not in items\.csv: {said}"):
        text(write(tmp_path, [f"0{number},t" for number in numbers.values()], lines))


def test_amazon_files_say_how_an_id_differs(tmp_path: Path) -> None:
    folder = write_amazon(tmp_path, {f"0{n}": "t" for n in range(10)}, {"u": [f"{n}" for n in range(1, 7)]})
    with pytest.raises(UserError, match=r"item '1' is not in x_items\.tsv, '1' instead of '01': .* leading zeros"):
        load_amazon(folder, needs_images=False)


def test_users_that_differ_in_form_only(tmp_path: Path) -> None:
    lines = [line.replace(",", ".0," if n % 9 > 5 else ",", 1) for n, line in enumerate(line[1:] for line in LINES)]
    [warning] = text(write(tmp_path, lines=lines)).warnings
    assert warning == (
        "interactions.csv: 20 ids differ from another only in form, such as '0.0' and '0'; they count as different "
        "users."
    )


def test_words_that_stand_for_a_missing_value(tmp_path: Path) -> None:
    titles = [f"{item},nan" if n % 4 == 0 else row for n, (item, row) in enumerate(zip(ITEMS, TITLES, strict=True))]
    lines = [f"nan,{line.partition(',')[2]}" if n % 9 == 8 else line for n, line in enumerate(LINES)]
    found = text(write(tmp_path, titles, lines))
    assert any("10 items have a title such as 'nan' or 'null'" in note for note in found.notes)
    assert any("20 of 180 interactions have the user 'nan'" in warning for warning in found.warnings)


@pytest.mark.parametrize("name", ["{}.png", "{}.JPG", "0{}.jpeg"])
@pytest.mark.parametrize("missing", ["fail", "drop-item"])
def test_pictures_under_another_name_are_said(name: str, missing: str, tmp_path: Path) -> None:
    config = write(tmp_path)
    (tmp_path / "images").mkdir()
    for item in ITEMS:
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / name.format(item))
    there = name.format("i00")
    policies = Policies(missing=missing)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"i00\.jpg: no such file, but there is '{there}' \(40 of 40"):
        load_files(FilesConfig("table", config.folder, policies=policies), 4)


def test_a_note_on_missing_pictures_says_so_too(tmp_path: Path) -> None:
    config = write(tmp_path)
    (tmp_path / "images").mkdir()
    for n, item in enumerate(ITEMS):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"{item}.{'jpg' if n else 'JPG'}")
    found = load_files(FilesConfig("table", config.folder, policies=Policies(missing="mean-image")), 4)
    assert any("i00.jpg: no such file, but there is 'i00.JPG'" in note for note in found.notes)


# Columns that change what a row means

STARS = [f"{user}\t{item}\t{5.0 if n % 3 == 0 else 1.0}\t{time}" for n, (user, item, time) in enumerate(ROWS)]
STARRED = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


def test_a_rating_that_is_not_used_is_noted(tmp_path: Path) -> None:
    found = text(write_recbole(tmp_path, STARRED, STARS))
    assert sum(map(len, found.sequences)) == 180
    assert (
        "a.inter: the column 'rating:float' ('1.0' 67%, '5.0' 33%) is not used: every row counts as one interaction; "
        "--min-rating X sets a least value."
    ) in found.notes


def test_rows_below_the_least_rating_are_left_out_and_counted(tmp_path: Path) -> None:
    stars = [f"{user}\t{item}\t{5.0 if n % 3 else 1.0}\t{time}" for n, (user, item, time) in enumerate(ROWS)]
    lines = [*stars, "u0\ti01\t\t1", "u0\ti01\t4,5\t1"]
    config = write_recbole(tmp_path, STARRED, lines)
    found = text(FilesConfig("recbole", config.folder, min_rating=2))
    assert found.dropped["interactions with a rating below 2"] == 60
    assert sum(map(len, found.sequences)) == 120
    assert found.dropped["interactions without a rating"] == 1
    assert found.dropped["interactions whose rating is not a number"] == 1
    assert not any("rating" in note for note in found.notes)


def test_the_least_rating_decides_which_users_are_left(tmp_path: Path) -> None:
    lines = [f"{user},{item},{time},{5 if user in ('u1', 'u2') else 1}" for user, item, time in ROWS]
    config = write(tmp_path, lines=lines, names="user,item,timestamp,stars")
    found = text(FilesConfig("table", config.folder, {"rating": "stars"}, min_rating=5))
    assert found.user_ids == ("u1", "u2")
    expected = text(write(tmp_path / "b", lines=[line for line in LINES if line[:3] in ("u1,", "u2,")]))
    assert found.digest == expected.digest
    assert text(FilesConfig("table", config.folder)).digest != found.digest, "the option is part of the cache key"


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        (
            "label",
            ["0", "1"],
            "('0' 50%, '1' 50%) is not used: every row counts as one interaction; --min-rating X --r",
        ),
        ("Quantity", ["1", "12"], "--min-rating X --rating-column Quantity sets a least value."),
        ("event_type", ["view", "buy"], "('view' 50%, 'buy' 50%) is not used: every row counts as one interaction."),
        ("watch_time", [str(n) for n in range(45)], "(45 values) is not used"),
        ("x_label", ["0", "2"], "is not used: the interactions are split as --split says."),
        ("quantity", ["1"], ""),
        ("comment", ["good", "bad"], ""),
    ],
)
def test_columns_that_change_what_a_row_means(column: str, values: list[str], said: str, tmp_path: Path) -> None:
    lines = [f"{line},{values[n % len(values)]}" for n, line in enumerate(LINES)]
    notes = text(write(tmp_path, lines=lines, names=f"user,item,timestamp,{column}")).notes
    found = [note for note in notes if column in note]
    assert len(found) == bool(said)
    assert not said or said in found[0]


def test_a_least_rating_without_ratings(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match=r"interactions\.csv: no column 'rating' for --min-rating; .* --rating-column"):
        text(FilesConfig("table", tmp_path, min_rating=4))
    write(tmp_path, lines=[f'{line},"4,5"' for line in LINES], names="user,item,timestamp,rating")
    with pytest.raises(UserError, match=r"no interactions are left, 180 interactions whose rating is not a number"):
        text(FilesConfig("table", tmp_path, min_rating=4))


# Times


def with_times(folder: Path, times: Sequence[object]) -> tuple[str, ...]:
    return text(write(folder, lines=[f"{u},{i},{t}" for (u, i, _), t in zip(ROWS, times, strict=True)])).warnings


STAMPS = [time for _, _, time in ROWS]


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([t * 1000 if n % 4 == 0 else t for n, t in enumerate(STAMPS)], "units (135 in seconds, 45 in milliseconds)"),
        ([0 if n % 9 == 8 else t for n, t in enumerate(STAMPS)], "20 timestamps are 0, as if the time were not known"),
        ([f"{t:.3e}" for t in STAMPS], "180 timestamps are in scientific notation: times that differ in the digits"),
        (
            [f"2024-05-01T10:{n % 60:02d}:00{'+08:00' * (n % 2)}" for n in range(180)],
            "90 of 180 timestamps have a time zone and the others have none; those count as UTC",
        ),
        (["9999-12-31" if n % 9 == 3 else "2024-05-01" for n in range(180)], "20 timestamps are after the year 2200"),
    ],
)
def test_times_whose_order_is_in_doubt(times: list[object], said: str, tmp_path: Path) -> None:
    [warning] = with_times(tmp_path, times)
    assert warning.startswith("interactions.csv: ")
    assert said in warning


@pytest.mark.parametrize(
    "times",
    [
        STAMPS,
        [1000 * t for t in STAMPS],
        range(180),
        [f"2024-05-01T10:{n % 60:02d}:00Z" for n in range(180)],
        [f"2024-05-{n % 30 + 1:02d} 10:00:00-0500" for n in range(180)],
        [f"2024-{n % 12 + 1:02d}-01" for n in range(180)],
    ],
)
def test_times_that_are_in_order(times: Sequence[object], tmp_path: Path) -> None:
    assert with_times(tmp_path, times) == ()


def test_times_of_32_bits(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": [u for u, _, _ in ROWS], "item": [int(i[1:]) for _, i, _ in ROWS]})
    coarse = text(write_parquet(tmp_path / "a", frame.assign(timestamp=np.array(STAMPS, dtype=np.float32))))
    assert "the timestamps are 32-bit floating-point numbers" in coarse.warnings[0]
    exact = text(write_parquet(tmp_path / "b", frame.assign(timestamp=np.array(STAMPS, dtype=np.float64))))
    assert exact.warnings == ()
