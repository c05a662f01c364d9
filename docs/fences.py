"""What the site does with a fence that names its file (`python reward.py`): the name becomes the title of the block.

mkdocs knows a fence with a language and `title="..."` alone, and would take any other for text of the page. It calls
`on_page_markdown` for each page (`hooks` of mkdocs.yml).
"""

from __future__ import annotations

import re
from typing import Any

NAMED = re.compile(r"^```(\w+) (\S+)$", re.MULTILINE)


def titled(markdown: str) -> str:
    """A page whose fences are those that mkdocs knows; a number behind a language is of the tests alone."""

    def fence(found: re.Match[str]) -> str:
        language, name = found.groups()
        return f"```{language}" if name.isdigit() else f'```{language} title="{name}"'

    return NAMED.sub(fence, markdown)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs."""
    return titled(markdown)
