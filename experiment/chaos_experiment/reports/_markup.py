"""Elements of HTML, SVG and XML. Whatever comes from outside is text in them, never markup."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

from chaos_core.text import printable

MAX_TEXT = 4000

Inside = Element | str | None


def element(name: str, /, *inside: Inside | Iterable[Inside], **attributes: object) -> Element:
    """An element with texts and elements in it; ``class_`` is ``class``, ``a_b`` is ``a-b``.

    Texts become one printable line each; an attribute that is None is left out.
    """
    made = Element(name)
    for key, value in attributes.items():
        if value is not None:
            made.set(key.rstrip("_").replace("_", "-"), printable(_number(value), MAX_TEXT))
    for part in inside:
        _add(made, part)
    return made


def _add(made: Element, part: Inside | Iterable[Inside]) -> None:
    if isinstance(part, str):
        text = printable(part, MAX_TEXT)
        if len(made):
            made[-1].tail = (made[-1].tail or "") + text
        else:
            made.text = (made.text or "") + text
    elif isinstance(part, Element):
        made.append(part)
    elif part is not None:
        for each in part:
            _add(made, each)


def _number(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def page(title: str, style: str, body: Iterable[Inside]) -> str:
    """A whole HTML document that loads nothing and can run nothing."""
    sheet = element("style")
    sheet.text = style
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        sheet,
    )
    root = element("html", head, element("body", element("main", body)), lang="en")
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"
