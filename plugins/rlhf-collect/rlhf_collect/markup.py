"""Text of models and people as HTML that can do nothing: no script, no style, no image, nothing from elsewhere."""

from __future__ import annotations

import re
from functools import cache

import nh3
from markdown_it import MarkdownIt

from rlhf_collect.formulas import MATH, add_formulas, small

TAGS = {
    *MATH,
    *("p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "a"),
}
ATTRIBUTES = {"a": {"href"}, "ol": {"start"}, **MATH}
# C0 but for tab and newline, C1, marks of direction, separators of lines, halves of characters, no characters.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
LONGEST = 100_000  # characters of a text


def plain(text: str) -> str:
    """The text with what it hides written out, such as `\\u202e`."""
    return HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n").replace("\r", "\n"))


def html(text: str) -> str:
    """Markdown with formulas as HTML of a few harmless tags; HTML in the text is shown as text, and so is an image."""
    cleaned = nh3.clean(
        _markdown().render(plain(text), {}),
        tags=TAGS,
        attributes=ATTRIBUTES,
        attribute_filter=small,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    return plain(cleaned)  # a text hides it in references such as &#x202e; too


@cache
def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).enable("table").disable("image")
    return add_formulas(made)
