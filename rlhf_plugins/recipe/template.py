"""Reads the chat template of a recipe from its file, so that a run keeps the text."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.recipe.options import NONE
from rlhf_plugins.recipe.paths import located
from rlhf_plugins.recipe.source import Keys, Source

NAME = "chat_template"


def with_text(source: Source, folder: Path) -> tuple[Source, list[tuple[Keys, str]]]:
    """The source with the template's text in the place of its file, relative to `folder`; and what is wrong."""
    given = source.values.get(NAME)
    if not isinstance(given, str) or not given or given == NONE or "{{" in given or "{%" in given:
        return source, []
    try:
        file = Path(located(given, OnDisk(), None if source.place((NAME,)).typed else folder))
    except ValueError as error:
        return source, [((NAME,), str(error))]
    if not os.path.isfile(file):
        return source, [((NAME,), f"there is no file {given!r}, and a template has {{{{ or {{% in it")]
    try:
        return replace(source, values={**source.values, NAME: file.read_text(encoding="utf-8-sig")}), []
    except (OSError, UnicodeDecodeError) as error:
        return source, [((NAME,), f"{given} cannot be read: {error}")]
