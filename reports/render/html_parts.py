"""Convert Markdown of the report to HTML: scrolling tables for screen readers, and figures as inline SVG."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from markdown_it import MarkdownIt
from markdown_it.token import Token

from reports.figures import svg
from reports.figures.drawing import Drawing
from reports.text import escape_html

_PARSER = MarkdownIt("commonmark", {"html": False}).enable("table")


def plain(markdown: str) -> str:
    """Text of one line of Markdown without its markup; it is not escaped for HTML."""
    return "".join(child.content for token in _PARSER.parseInline(markdown) for child in token.children or [])


def to_html(markdown: str, drawings: Mapping[str, Drawing], about: str) -> str:
    """HTML of a part of the report; HTML within the Markdown is shown as text.

    Args:
        markdown: Markdown in which text from data is escaped.
        drawings: Figures by the stem of their file name. They replace the images with this name; an image without a
            figure becomes a link to its file.
        about: Subject of the part, for captions and labels.
    """
    tokens = _PARSER.parse(markdown)
    return str(_PARSER.renderer.render(_rewritten(tokens, drawings, about), _PARSER.options, {}))


def _rewritten(tokens: Sequence[Token], drawings: Mapping[str, Drawing], about: str) -> list[Token]:
    found: list[Token] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        image = _image(token)
        if image is not None:
            # <p>, the image, </p>, <p>, its caption, </p>
            found[-1] = _raw(_figure(image, drawings))
            found += [_raw("<figcaption>"), tokens[place + 3], _raw("</figcaption></figure>")]
            place += 5
            continue
        if token.type == "heading_open" and place + 1 < len(tokens):
            about = plain(tokens[place + 1].content)
        found += _table_part(tokens, place, about)
        place += 1
    return found


def _raw(markup: str) -> Token:
    return Token("html_block", "", 0, content=markup)


def _image(token: Token) -> Token | None:
    """Image of a paragraph that consists of one image; None for any other token."""
    children = token.children or []
    return children[0] if len(children) == 1 and children[0].type == "image" else None


def _figure(image: Token, drawings: Mapping[str, Drawing]) -> str:
    source = str(image.attrs["src"])
    title = escape_html(image.content)
    drawing = drawings.get(PurePosixPath(source).stem)
    if drawing is None or drawing.svg is None:
        return f'<figure><a href="{escape_html(source)}">{title}</a>'
    picture = svg.inline(drawing.svg, drawing.stem, f"{drawing.title}. {drawing.caption}")
    return f'<figure><div class="scroll plot" role="region" tabindex="0" aria-label="{title}">{picture}</div>'


def _table_part(tokens: Sequence[Token], place: int, about: str) -> list[Token]:
    """Tokens of a table with the markup for scrolling and screen readers; any other token unchanged."""
    token = tokens[place]
    if str(token.attrs.get("style", "")) == "text-align:right":
        token.attrs = {"class": "number"}  # styles within the page are forbidden
    if token.type == "table_open":
        label = escape_html(about)
        scroll = f'<div class="scroll" role="region" tabindex="0" aria-label="Table: {label}">'
        return [_raw(scroll), token, _raw(f'<caption class="hidden">{label}</caption>')]
    if token.type == "table_close":
        return [token, _raw("</div>")]
    if token.type == "th_open":
        token.attrSet("scope", "col")
    elif token.type == "td_open" and tokens[place - 1].type == "tr_open":
        token.tag = tokens[place + 2].tag = "th"
        token.attrSet("scope", "row")
    return [token]


def anchor(title: str) -> str:
    """Id of a heading, from its title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
