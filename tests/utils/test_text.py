"""What is printed holds no control sequence, and what a spreadsheet opens no formula."""

import io
import json
import sys
from typing import Any

import pytest
from rich.console import Console

from bench.config.cells import Cell, cells
from bench.config.matrix import parse
from bench.launch.progress import Reporter
from bench.utils.text import LONGEST, as_json, guarded, printable
from tests.tiny import BASE


def test_control_characters_show_as_escapes() -> None:
    assert printable("a\x1b[31mb\x9b2J\nc\u202ed\ud800é😀") == "a\\x1b[31mb\\x9b2J\\nc\\u202ed\\ud800é😀"
    long = printable(f"--option {'x' * 10**6}: no such folder")
    assert len(long) == LONGEST
    assert long.startswith("--option xx")
    assert long.endswith("xx: no such folder")


def test_json_is_the_same_value_and_printable() -> None:
    value = {"a\x9b\u202e": ["\x1b[2J", "é😀\U000e0001", "\ud800"], "b": 1.5}
    text = as_json(value)
    assert all(line.isprintable() for line in text.splitlines())
    assert json.loads(text) == value
    assert "é😀" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("=1", "'=1"), ("+a", "'+a"), ("-b", "'-b"), ("@c", "'@c"), ("\t=1", "'\t=1"), ("＝1", "'＝1"),
     ("-1.5e3", "-1.5e3"), ("+2", "+2"), ("-.5", "-.5"), ("-1+1", "'-1+1"), ("-", "'-"), ("a=1", "a=1"), ("", "")],
)  # fmt: skip
def test_formulas_are_guarded_and_numbers_are_not(text: str, shown: str) -> None:
    assert guarded(text) == shown


@pytest.fixture
def cell() -> Cell:
    return cells(parse(BASE, "f"), "cpu")[0]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_messages_as_they_are(terminal: bool, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    out: Any = io.StringIO()
    out.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", out)
    reporter = Reporter(1)
    reporter.console = Console(file=out, force_terminal=terminal, highlight=False, soft_wrap=True, width=200)
    with reporter:
        reporter(cell, {"event": "start"})
        reporter(cell, {"event": "phase", "phase": "[/bold]\x1b]0;title\x07[red]phase"})
        reporter(cell, {"event": "done", "status": "failed", "error": "[red]no[/] \x1b[2J [/nothing]"})
    assert "[red]no[/] \\x1b[2J [/nothing]" in out.getvalue()
    assert "\x1b]0;" not in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()
