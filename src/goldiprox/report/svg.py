"""Matplotlib's SVG files, made fit to stand inside a page among others."""

from __future__ import annotations

import re
from html import escape

__all__ = ["for_page"]

_ID = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(?:href="#|url\(#)([^")]*)')
_KEPT = re.compile(r"(?:line|amortised)-")
_TAG = re.compile(r"<[^>]*>")
_LONG = re.compile(r"-?\d+\.\d{3,}")


def _shortened(number: re.Match[str]) -> str:
    """Two digits are a hundredth of a point. In tags only: a number in the text means itself."""
    return f"{float(number.group()):.2f}"


def for_page(svg: str, *, name: str, title: str, description: str) -> str:
    """Turn a file into an element.

    Ids get the figure's name in front (two figures of one page must not share any) or go if
    nothing refers to them; the file's global style sheet goes, for it would reach the whole page;
    fonts are the page's; a title and a description tell what is seen.

    Args:
        svg: what matplotlib wrote with ``svg.fonttype`` none.
        name: of the figure, unique on the page.
        title: in a few words.
        description: what a reader who cannot see it should know.

    Returns:
        An ``<svg>`` element that loads nothing.
    """
    body = svg[svg.index("<svg") :]
    body = body[body.index(">") + 1 :]
    view = re.search(r'viewBox="([^"]*)"', svg)
    assert view is not None
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r" font-family: [^;\"]*;", "", body)
    body = _TAG.sub(lambda tag: _LONG.sub(_shortened, tag.group()), body)
    referred = set(_REFERENCE.findall(body))

    def rename(match: re.Match[str]) -> str:
        found = match.group(1)
        kept = found in referred or _KEPT.match(found)
        return f' id="{name}-{found}"' if kept else ""

    body = _ID.sub(rename, body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"\s*\n\s*(?!<)", " ", body).strip()
    return (
        f'<svg class="figure" viewBox="{view.group(1)}" role="img" '
        f'aria-labelledby="{name}-title {name}-description">\n'
        f'<title id="{name}-title">{escape(title)}</title>\n'
        f'<desc id="{name}-description">{escape(description)}</desc>\n{body}\n'
    )
