"""Prepare the SVG of a figure for inclusion in an HTML page: no inline styles, no metadata, unique ids."""

from __future__ import annotations

import re
from xml.etree import ElementTree

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^)"]+)')

ElementTree.register_namespace("", _SVG)


def inline(svg: bytes, name: str, label: str) -> str:
    """Markup of a figure for an HTML page whose content security policy forbids inline styles.

    Styles become attributes, which the style sheet of the page can override. Ids that are referred to get `name` as
    prefix, so that the ids of two figures of a page differ; other ids are removed.

    Args:
        svg: SVG as matplotlib writes it.
        name: Name of the figure, unique within the page.
        label: Text for screen readers.
    """
    root = ElementTree.fromstring(svg)
    _without(root, {f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"})
    used = set(_REFERENCE.findall(svg.decode()))
    for element in root.iter():
        _as_attributes(element)
        _rename(element, name, used)
    root.attrib |= {"role": "img", "aria-label": label, "stroke-linejoin": "round", "stroke-linecap": "butt"}
    for size in ("width", "height"):
        root.attrib.pop(size, None)  # set by the style sheet
    return ElementTree.tostring(root, encoding="unicode")


def _without(element: ElementTree.Element, tags: set[str]) -> None:
    for child in list(element):
        if child.tag in tags:
            element.remove(child)
        else:
            _without(child, tags)


def _as_attributes(element: ElementTree.Element) -> None:
    """Turn `style="fill: #fff"` into `fill="#fff"`; the style sheet of the page sets the font family."""
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":  # [weight] size 'family', ..., which is not an attribute
            size = re.search(r"([\d.]+)px", value)
            element.attrib |= {"font-size": size[1]} if size else {}
            element.attrib |= {"font-weight": "bold"} if re.match(r"(bold|[67]00)\b", value) else {}
        elif key and key != "font-family":
            element.set(key, value)


def _rename(element: ElementTree.Element, name: str, used: set[str]) -> None:
    own = element.attrib.pop("id", None)
    if own in used:
        element.set("id", f"{name}-{own}")
    target = element.attrib.pop(_LINK, None)
    if target is not None:
        element.set("href", f"#{name}-{target[1:]}" if target.startswith("#") else target)
    for key, value in element.attrib.items():
        if "url(#" in value:
            element.set(key, value.replace("url(#", f"url(#{name}-"))
