"""Tests of escaping against a Markdown parser, and of number formats."""

from __future__ import annotations

import itertools
import random

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from reports.text import (
    code_block,
    count,
    escape,
    escape_html,
    escape_latex,
    guard_formulas,
    listing,
    number,
    ratio,
    size,
    table,
)

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

NASTY = [
    "a|b",
    "`code` and ``more``",
    "*emphasis* _too_ ~~gone~~",
    "[text](http://example.org) ![image](x.png)",
    "<script>alert(1)</script> &amp; &lt;",
    "# no heading",
    "- no list",
    "-",
    "+ no list",
    "1. no list",
    "2) no list",
    "> no quote",
    "=== no rule",
    "---",
    "***",
    "back\\slash \\| \\",
    "$x$ {y}",
    "http://example.org/a_b_c and www.example.org and HTTPS://x.y",
    "    no code block",
    "<!-- no comment",
]


def shown(tokens: list[Token]) -> str:
    """Visible text of rendered Markdown; markup of any kind fails the test."""
    words = []
    for token in tokens:
        for child in token.children or []:
            assert child.type in {"text", "text_special"}, child
            words.append(child.content)
    return "".join(words)


def random_texts(count: int) -> list[str]:
    draw = random.Random(0)
    alphabet = "\\`*_{}[]()<>#+-.!|~&$@=:/ab1 \n\t"
    return ["".join(draw.choices(alphabet, k=draw.randint(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("text", NASTY)
def test_escaped_text_shows_as_it_is(text: str) -> None:
    shows_as_it_is(text)
    stays_in_its_cell(text)


def test_any_punctuation_shows_as_it_is() -> None:
    for text in random_texts(400):
        shows_as_it_is(text)
        stays_in_its_cell(text)


def shows_as_it_is(text: str) -> None:
    expected = " ".join(text.split())
    paragraph = PARSER.parse(escape(text))
    assert [token.type for token in paragraph] in ([], ["paragraph_open", "inline", "paragraph_close"])
    assert shown(paragraph) == expected
    item = PARSER.parse(f"- {escape(text)}")
    assert {token.type for token in item} <= {
        "bullet_list_open", "list_item_open", "paragraph_open", "inline", "paragraph_close", "list_item_close",
        "bullet_list_close",
    }  # fmt: skip
    assert shown(item) == expected


def stays_in_its_cell(text: str) -> None:
    tokens = PARSER.parse(table(["first", "second"], [[escape(text), "end"]]))
    cells = [token for before, token in itertools.pairwise(tokens) if before.type == "td_open"]
    assert len(cells) == 2
    assert shown(cells[:1]) == " ".join(text.split())
    assert shown(cells[1:]) == "end"


def test_control_characters_vanish_and_long_texts_are_cut() -> None:
    assert escape("\x1b[31mred\x00\u202e\r\nnext") == "\\[31mred next"
    assert escape("x" * 50, limit=10) == "x" * 9 + "…"
    assert escape("x" * 10, limit=10) == "x" * 10


@pytest.mark.parametrize("text", ["plain", "```\nrm -rf /\n```", "````` five"])
def test_nothing_closes_a_code_block(text: str) -> None:
    tokens = PARSER.parse(code_block(text))
    assert [token.type for token in tokens] == ["fence"]
    assert tokens[0].content == f"{text}\n"


def test_html_and_latex() -> None:
    assert escape_html("<b a='1'>\x1b[31m&\u202e\n\"x\"") == "&lt;b a=&#x27;1&#x27;&gt;[31m&amp; &quot;x&quot;"
    assert escape_latex("50 % of \\input{a_b} & ~$x^2$ --\x07[1]*") == (
        r"50 \% of \textbackslash{}input\{a\_b\} \& \textasciitilde{}\$x\textasciicircum{}2\$ -{}-{[}1{]}{*}"
    )


def test_names_of_columns_are_guarded_and_rows_stay_whole() -> None:
    frame = pd.DataFrame([["a\r=1", "-5"], ["\ud800", 2.5]], columns=["=x", "=x"], dtype=object)
    assert guard_formulas(frame).to_csv(index=False) == "'=x,'=x\n\"a\n=1\",-5\n?,2.5\n"


def test_formulas_become_text_and_numbers_stay() -> None:
    frame = pd.DataFrame({"method": ["=1+1", "+a", "-b", "@c", "d-e", None], "x": [-1.5, 2, 3, 4, 5, None]})
    guarded = guard_formulas(frame)
    assert guarded["method"].tolist()[:5] == ["'=1+1", "'+a", "'-b", "'@c", "d-e"]
    assert pd.isna(guarded["method"].iloc[5])
    assert guarded.to_csv(index=False).splitlines()[1] == "'=1+1,-1.5"
    assert frame["method"].iloc[0] == "=1+1"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.012345, "0.0123"), (4.5678, "4.57"), (78.912, "78.9"), (99.96, "100"), (123.4, "123"),
     (12345, "12,300"), (0.000123, "1.23e-04"), (2.0, "2.00"), (-3.21, "-3.21")],
)  # fmt: skip
def test_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_sizes_counts_and_ratios() -> None:
    assert [size(value) for value in (0, 1023, 1024, 31 * 2**20, 47.5 * 2**30)] == [
        "0 B", "1,023 B", "1.00 KiB", "31.0 MiB", "47.5 GiB",
    ]  # fmt: skip
    assert count(194_897_216.0) == "194,897,216"
    assert [ratio(value, 200.0) for value in (0.8, 10, 20, 168, 200, 3000, 50_000)] == [
        "0.004×", "0.05×", "0.10×", "0.84×", "1.00×", "15.0×", "250×",
    ]  # fmt: skip
    assert [listing(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
