"""A figure's SVG made fit to stand within a page: no style of its own, no foreign parts, no names that clash."""

from __future__ import annotations

import re
from xml.etree import ElementTree

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^)"]+)')

ElementTree.register_namespace("", _SVG)


def inline(svg: bytes, name: str, label: str) -> str:
    """Markup of a picture for an HTML page whose policy forbids inline styles.

    Styles become attributes, which the page's own style sheet may overrule; what is referred to gets `name` before its
    id, so that two figures of one page do not mean each other; any other id goes.

    Args:
        svg: As matplotlib writes it.
        name: What sets this figure apart from the others of the page.
        label: What a screen reader says of it.
    """
    root = ElementTree.fromstring(svg)
    _without(root, {f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"})
    used = set(_REFERENCE.findall(svg.decode()))
    for element in root.iter():
        _as_attributes(element)
        _rename(element, name, used)
    root.attrib |= {"role": "img", "aria-label": label, "stroke-linejoin": "round", "stroke-linecap": "butt"}
    for size in ("width", "height"):
        root.attrib.pop(size, None)  # the style sheet's matter
    return ElementTree.tostring(root, encoding="unicode")


def _without(element: ElementTree.Element, tags: set[str]) -> None:
    for child in list(element):
        if child.tag in tags:
            element.remove(child)
        else:
            _without(child, tags)


def _as_attributes(element: ElementTree.Element) -> None:
    """`style="fill: #fff"` as `fill="#fff"`; families of fonts are left to the style sheet."""
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":  # [weight] size 'family', ..., which is no attribute
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
