"""Text from data on its way into Markdown, HTML, LaTeX, a terminal and a spreadsheet."""

import csv
import io
from html.parser import HTMLParser

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bench.utils.text import as_json, printable
from reports.text import escape, escape_html, escape_latex, guard_formulas, table, visible
from tests.fuzz.harness import cases
from tests.fuzz.hostile import controls, texts, values

ANY = texts | st.text(alphabet="\\`*_{}[]()<>#+-.!|~&$@=:/\"'^%ab1 \n\t\x1b\u202e")
PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


@given(text=ANY)
@cases("texts for Markdown", 2)
def test_markdown_shows_text_as_it_is_and_within_its_cell(text: str) -> None:
    assert not controls(escape(text))
    rows = PARSER.parse(table(["a", "b"], [[escape(text), "end"]]))
    inline = [token for token in rows if token.type == "inline"]
    assert [len(inline), inline[3].content] == [4, "end"]
    children = inline[2].children or []
    assert {child.type for child in children} <= {"text", "text_special"}
    assert "".join(child.content for child in children) == visible(text)


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(text=ANY)
@cases("texts for HTML", 2)
def test_html_holds_text_in_elements_and_attributes(text: str) -> None:
    parser = Collector()
    parser.feed(f"<p title=\"{escape_html(text)}\" id='{escape_html(text)}'>{escape_html(text)}</p>")
    parser.close()
    assert parser.tags == [("p", [("title", visible(text)), ("id", visible(text))])]
    assert parser.text == visible(text)


LATEX = {
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
    "textbar": "|", "textquotesingle": "'", "textasciigrave": "`", "textperiodcentered": "·", "ldots": "…",
}  # fmt: skip
SIGNS = {r"$\pm$": "±", r"$\times$": "×", "$-$": "−", r"$\surd$": "√", r"\texttt{\char34}": '"'}


def typeset(source: str) -> str:
    """What LaTeX prints of text-mode source that uses nothing but names of characters, escapes, signs and groups."""
    out, place, depth = "", 0, 0
    while place < len(source):
        character = source[place]
        sign = next((known for known in SIGNS if source.startswith(known, place)), None)
        if sign is not None:
            out += SIGNS[sign]
            place += len(sign)
            continue
        if character == "\\":
            name = ""
            place += 1
            while place < len(source) and source[place].isascii() and source[place].isalpha():
                name += source[place]
                place += 1
            if name:
                out += LATEX[name]
                continue
            assert source[place] in "{}$&#_%", "an escape that is none"
            out += source[place]
        elif character in "{}":
            depth += 1 if character == "{" else -1
            assert depth >= 0
        else:
            assert character not in "$&#_%^~", "a character that LaTeX takes for a command"
            out += character
        place += 1
    assert depth == 0
    return out


@given(text=ANY)
@cases("texts for LaTeX", 2)
def test_latex_sets_text_as_it_is(text: str) -> None:
    source = escape_latex(text)
    assert not controls(source)
    assert "--" not in source
    assert typeset(source) == visible(text)


@given(text=ANY, value=values)
@cases("texts for a terminal", 2)
def test_nothing_steers_the_terminal(text: str, value: object) -> None:
    assert printable(text).isprintable()
    assert not controls(as_json({"text": text, "value": value}))


@given(column=st.lists(ANY, min_size=1, max_size=4), name=ANY)
@cases("texts for a spreadsheet", 2)
def test_no_cell_is_a_formula(column: list[str], name: str) -> None:
    frame = pd.DataFrame({name: column, "x": [-1.5] * len(column)})
    text = guard_formulas(frame).to_csv(index=False, lineterminator="\n")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len(rows) == len(column) + 1
    for row, original in zip(rows, [name, *column], strict=True):
        if not row[0].lstrip("+-").replace(".", "").replace("e", "").isdigit():
            assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
        kept = original.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n")
        assert row[0].removeprefix("'") == kept.removeprefix("'")
        assert row[1] in ("-1.5", "x")
