"""LaTeX in a text: MathML where it can be read, code where it cannot, and no formula where none is meant."""

from __future__ import annotations

import re
from time import process_time
from xml.etree.ElementTree import fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlhf_collect.markup import TAGS, html

HALF = "<mrow><mfrac><mrow><mi>a</mi></mrow><mrow><mn>2</mn></mrow></mfrac></mrow></math>"
PIECES = (
    "$",
    "$$",
    "\\(",
    "\\)",
    "\n\\[",
    "\\]\n",
    "\\frac",
    "\\text",
    "\\href",
    "{",
    "}",
    "x",
    "<b>",
    "&lt;",
    "\n",
    "^",
)


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("so $\\frac{a}{2}$ is", "inline"),
        ("so \\(\\frac{a}{2}\\) is", "inline"),
        ("so $$\\frac{a}{2}$$ is", "block"),
        ("so\n\\[\n\\frac{a}{2}\n\\]\nis", "block"),
        ("> $$\n> \\frac{a}{2}\n> $$", "block"),
    ],
)
def test_every_way_to_write_a_formula_is_read(text: str, display: str) -> None:
    assert f'<math display="{display}">{HALF}' in html(text)


@pytest.mark.parametrize("text", ["$5 and $6", "costs $ 5 $", "`$x$`", "    $x$", "\\$x\\$", "\\\\(x\\\\)", "$a\n\nb$"])
def test_no_formula_is_read_where_none_is_meant(text: str) -> None:
    assert "<math" not in html(text)


@pytest.mark.parametrize(
    "formula",
    [
        "\\foo{x}",  # unknown
        "\\frac{1}",  # half
        "\\text{a",
        "\\cancel{4}",  # a browser would show it as 4
        "\\newcommand{\\a}{\\b\\b}\\a",
        "\\def\\a{\\a\\a}\\a",
        "x^a^b",
        "\\begin{multline}a\\\\b\\end{multline}",  # it would be one line
        "a\\\\b",
        "\\sqrt" * 300 + "x",
        "x" * 3000,
    ],
)
def test_a_formula_that_cannot_be_read_is_shown_as_code(formula: str) -> None:
    assert html(f"${formula}$") == f"<p><code>${formula}$</code></p>\n"


@pytest.mark.parametrize("name", ["align", "aligned", "cases", "gathered", "pmatrix", "split"])
def test_rows_of_an_environment_are_rows(name: str) -> None:
    shown = html(f"$$\\begin{{{name}}}a\\\\b\\end{{{name}}}$$")
    assert re.findall("<mi>([ab])</mi>.*?</mtr>", shown) == ["a", "b"]


def test_a_length_that_reaches_beyond_the_formula_is_left_out() -> None:
    assert html("$\\hspace{999em}\\quad$").count("<mspace>") == 1
    assert '<mspace width="1em">' in html("$\\hspace{999em}\\quad$")


def test_formulas_cost_little_however_many_a_text_has() -> None:
    start = process_time()
    for text in ("$" * 50_000, "\\(" * 25_000, "$x " * 16_000, "$a$" * 16_000, "\\[x\n" * 2000):
        html(text)
    assert process_time() - start < 5  # 0.4 s; hours where a mark is looked for to the end of the text


@given(st.lists(st.sampled_from(PIECES), max_size=24).map("".join))
def test_whatever_is_written_becomes_whole_harmless_tags(text: str) -> None:
    shown = re.sub(r"<(br|hr)>", r"<\1/>", html(text)).replace("&nbsp;", " ")
    assert {element.tag for element in fromstring(f"<p>{shown}</p>").iter()} <= TAGS
