"""LaTeX in Markdown as MathML: `$x$`, `\\(x\\)`, `$$x$$`, and lines from `\\[` to `\\]`.

A formula that cannot be read is shown as code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import unescape
from typing import Any
from xml.etree.ElementTree import Element, tostring

from latex2mathml.converter import convert_to_element
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

MATH: dict[str, set[str]] = {
    "math": {"display"},
    "mo": {"stretchy", "fence", "form", "lspace", "rspace", "minsize", "maxsize", "movablelimits", "largeop"},
    "mspace": {"width", "height", "depth"},
    "mpadded": {"width", "height", "depth", "voffset", "lspace"},
    "mstyle": {"displaystyle", "scriptlevel"},
    "mfrac": {"linethickness"},
    "mover": {"accent"},
    "mtable": {"displaystyle", "columnlines", "rowlines"},
    "mtd": {"columnalign"},
    "menclose": {"notation"},
    **{name: {"mathvariant"} for name in ("mi", "mn", "mtext")},
    **{name: set() for name in ("mrow", "msqrt", "mroot", "mtr")},
    **{name: set() for name in ("msub", "msup", "msubsup", "munder", "munderover", "mmultiscripts", "none")},
}
PARTS = {
    **dict.fromkeys(("mfrac", "mroot", "msub", "msup", "mover", "munder"), 2),
    **dict.fromkeys(("msubsup", "munderover"), 3),
}
LENGTHS = MATH["mspace"] | MATH["mpadded"] | {"rspace", "minsize", "maxsize", "linethickness"}
SMALL = re.compile(r"[+-]?\d?(\.\d+)?(em|ex|width|height|depth)|\d{1,2}(px|pt)|0")
# Nothing in a formula opens or closes one, so that a text is read once however many opening marks it has.
INLINE = re.compile(
    r"\$\$(?P<shown>(?:\\.|[^\\$])+)\$\$"
    r"|\$(?![\s$])(?P<dollars>(?:\\.|[^\\$])+)(?<!\s)\$(?![\d$])"  # not the prices of $5 and $6
    r"|\\\((?P<brackets>(?:\\[^()]|[^\\])+)\\\)",
    re.DOTALL,
)
LINES = {"$$": "$$", "\\[": "\\]"}
DEFINING = re.compile(r"\\(new|renew|provide|def|let|Declare)")  # a command that makes commands can make ever more
ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{([^}]*)\}")
KNOWN = {  # what the library lays out alike; it takes the marks of any other environment for text
    **{name: name for name in ("array", "cases", "split", "align*", "smallmatrix")},
    **{f"{name}matrix": f"{name}matrix" for name in ("", "p", "b", "B", "v", "V")},
    **{"align": "align*", "aligned": "split", "gathered": "matrix", "gather": "matrix", "gather*": "matrix"},
}
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # those after a backslash are characters
LONGEST, MOST, MOST_LINES = 2000, 20_000, 100  # characters of a formula, of all in a text; lines of one


def add_formulas(markdown: MarkdownIt) -> MarkdownIt:
    """The parser, which now reads formulas too."""
    markdown.inline.ruler.before("escape", "formula", _within)
    markdown.block.ruler.before("fence", "formula", _lines, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    markdown.add_render_rule("formula", _rendered)
    return markdown


def mathml(latex: str, display: str = "inline") -> str | None:
    """MathML without text that a browser could take for tags; None where the formula cannot be read.

    Args:
        latex: without its dollars or brackets.
        display: inline or block.
    """
    braces = BRACE.findall(latex)
    if len(latex) > LONGEST or DEFINING.search(latex) or braces.count("{") != braces.count("}"):
        return None
    if not KNOWN.keys() >= {name for _, name in ENVIRONMENT.findall(latex)}:
        return None
    latex = ENVIRONMENT.sub(lambda found: f"\\{found[1]}{{{KNOWN[found[2]]}}}", latex)
    try:
        tree = convert_to_element(latex, display=display)
    except Exception:  # each fault of a formula has a class of its own there, and some have none
        return None
    if not all(map(_readable, tree.iter())):
        return None
    for element in tree.iter():
        element.text = unescape(element.text or "")
    return tostring(tree, encoding="unicode")


def small(tag: str, name: str, value: str) -> str | None:
    """The value of an attribute; None for a length that reaches beyond the formula."""
    return None if tag in MATH and name in LENGTHS and not SMALL.fullmatch(value) else value


def _readable(element: Element) -> bool:
    """Whether a browser shows it as it is meant; an unknown command is left as it is written, with its backslash."""
    known = element.tag in MATH and element.get("notation", "box") == "box"
    new_line = element.tag == "mspace" and {*element.keys()} <= {"linebreak"}  # which browsers do not know
    whole = len(element) == PARTS.get(element.tag, len(element))
    return known and whole and not new_line and "\\" not in (element.text or "")


def _within(state: StateInline, silent: bool) -> bool:
    found = INLINE.match(state.src, state.pos, state.posMax)
    if not found:
        return False
    if not silent:
        token = state.push("formula", "math", 0)
        token.content, token.info = found[0], found[str(found.lastgroup)]
        token.meta = {"display": "block" if found.lastgroup == "shown" else "inline"}
    state.pos = found.end()
    return True


def _lines(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    start = state.bMarks[first] + state.tShift[first]
    closing = LINES.get(state.src[start : start + 2])
    if closing is None or state.is_code_block(first):
        return False
    for line in range(first, min(last, first + MOST_LINES)):
        begin = start + 2 if line == first else state.bMarks[line]
        if line > first and (state.isEmpty(line) or state.sCount[line] < state.blkIndent):
            return False
        if state.src[begin : state.eMarks[line]].rstrip().endswith(closing):
            if not silent:
                token = state.push("formula", "math", 0)
                token.content = state.getLines(first, line + 1, state.blkIndent, False).strip()
                token.info, token.block, token.meta = token.content[2:-2], True, {"display": "block"}
                state.line = line + 1
            return True
    return False


def _rendered(self: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    token = tokens[place]
    env["formulas"] = env.get("formulas", 0) + len(token.info)
    shown = mathml(token.info, token.meta["display"]) if env["formulas"] <= MOST else None
    code = f"<code>{escapeHtml(token.content)}</code>"
    return shown or (f"<pre>{code}</pre>" if token.block else code)
