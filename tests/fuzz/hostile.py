"""Inputs that mean harm or are merely broken."""

import csv
import io
import unicodedata
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

NASTY_TEXT = [
    "", " ", "\t", "\n", "\r\n", "\0", "\x1b[31mred\x1b[0m", "\x07", "\x9b2J", "\u202eevil\u202c", "\u200f", "\ufeff",
    "../../etc/passwd", "/etc/passwd", "..", ".", "a/b", "a\\b", "C:\\x", "CON", "nul.jpg", "com1", "x" * 300,
    "=1+1", "@SUM(A1)", "+a", "-b", "|cmd", "<script>alert(1)</script>", "&lt;", "`x`", "[a](http://b)", "![i](j)",
    "a|b", "# h", "$x$", "$\\frac{", "\\input{/etc/passwd}", "%s%n", "{0}", "[red]x[/red]", "[/]", "nan", "inf",
    "1e400", "-0", "0x10", "1_000", "٣", "é", "e\u0301", "😀", "\u2028", "\u3000", "&#" + "9" * 5000 + ";", "null",
    "true", "'", '"', "'''", "yes", "no",
]  # fmt: skip
NASTY_NUMBERS: list[Any] = [
    0, -1, 1, 2, 10, 2**31, 2**63, 2**64, 10**30, -(2**63), 0.5, -0.5, 1.5, 1e-320, 1e308, float("inf"), float("-inf"),
    float("nan"), True, False,
]  # fmt: skip
CHUNKS = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n\n", b"\t", b'"', b"'", b",", b";", b"{", b"[" * 2000,
    b"}", b"]", b"=", b"#", b"NaN", b"Infinity", b"-1", b"1e400", b"9" * 5000, b"null", b"\\u0000", b"\\ud800",
    b"\x80", b"\xc0\xaf", b"\xe2\x80\xae", b"\x1b[2J", b"-", b"<b>", b"true", b"A" * 200_000, b"true,", b"1979-05-27",
]  # fmt: skip

texts = st.sampled_from(NASTY_TEXT) | st.text(max_size=20)
numbers = st.sampled_from(NASTY_NUMBERS) | st.integers() | st.floats()
scalars = texts | numbers | st.none()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)


@st.composite
def mutated(draw: Callable[..., Any], sound: bytes) -> bytes:
    """A sound file after one to four accidents or attacks."""
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(["flip", "cut", "drop", "insert", "replace", "twice"])):
            case "flip" if content:
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del content[place:]
            case "drop":
                del content[place : place + draw(st.integers(1, 40))]
            case "insert":
                content[place:place] = draw(st.sampled_from(CHUNKS) | st.binary(max_size=8))
            case "replace":
                chunk = draw(st.sampled_from(CHUNKS[:20]))
                content[place : place + len(chunk)] = chunk
            case "twice":
                content[place:place] = content[max(0, place - draw(st.integers(1, 80))) : place]
    return bytes(content)


@st.composite
def changed(draw: Callable[..., Any], sound: Any) -> Any:
    """A nested value with a few of its parts replaced, taken away or joined by others."""
    value = sound
    for _ in range(draw(st.integers(1, 3))):
        value = _change(draw, value)
    return value


def _change(draw: Callable[..., Any], value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        match draw(st.integers(0, 11)):
            case 0:
                return {name: entry for name, entry in value.items() if name != key}
            case 1:
                return {**value, draw(texts): draw(values)}
            case _:
                return {**value, key: _change(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        place = draw(st.integers(0, len(value) - 1))
        if not draw(st.integers(0, 5)):
            return [*value, value[place]]
        return [*value[:place], _change(draw, value[place]), *value[place + 1 :]]
    return draw(values)


def as_csv(rows: list[list[str]]) -> bytes:
    """A well-formed CSV file of whatever cells."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def controls(text: str) -> list[str]:
    return [c for c in text if c != "\n" and unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
