"""How a recipe has conversations rendered, as one chat template, so that whoever has the tokenizer renders alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any

from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.contract.run import Chat
from rlhf_plugins.data.turns import AS_MESSAGES
from rlhf_plugins.errors import DataError, RunError


def whole_template(own: Any, chat: Chat) -> str:
    """The template of a tokenizer, or the one in its place, which sets the options and adds the system turn itself.

    Raises:
        RunError: there is no template, or an option is not what a template can hold.
    """
    template = chat.template or (own.get("default") if isinstance(own, Mapping) else own)
    if not template:
        raise RunError("its tokenizer has no chat template, which `system` and `chat_template_kwargs` need; give one")
    sets = [f"{{% set {_name(name)} = {_literal(name, value)} %}}" for name, value in sorted(chat.options.items())]
    if chat.system is not None:
        opened = "messages and messages[0]['role'] not in ['system', 'developer']"
        first = f"[{{'role': 'system', 'content': {_literal('system', chat.system)}}}]"
        sets.append(f"{{% if {opened} %}}{{% set messages = {first} + messages %}}{{% endif %}}")
    before = "".join(sets)
    return f"{before[:-2]}+%}}{template}" if before else str(template)  # a line break that it begins with is kept


def rendering(tokenizer: Any, options: Mapping[str, Any]) -> Any:
    """The tokenizer, or a copy of it whose chat template sets the options. Raises RunError as `whole_template`."""
    if not options or not tokenizer.chat_template:
        return tokenizer
    own = copy(tokenizer)
    own.chat_template = whole_template(tokenizer.chat_template, Chat(options=options))
    return own


def refuse_text(data: Data, chat: Chat | None) -> None:
    """Raises DataError where a recipe says how conversations are rendered, and its rows are text."""
    if chat is None:
        return
    groups: Iterable[Group] = (*data.train, *data.test, *(one for split in data.prompts.values() for one in split))
    if any(isinstance(group.prompt, str) for group in groups):
        given = " and ".join(name for name, value in _words(chat).items() if value)
        raise DataError(
            f"the recipe gives {given}, which only conversations have, and the rows are text; {AS_MESSAGES}"
        )


def _words(chat: Chat) -> dict[str, Any]:
    return {"chat_template": chat.template, "system": chat.system, "chat_template_kwargs": chat.options}


def _name(name: str) -> str:
    if not name.isidentifier():
        raise RunError(f"chat_template_kwargs: {name!r} is no name of a variable")
    return name


def _literal(name: str, value: Any) -> str:
    """A value as Jinja writes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, str | int | float):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(k))}: {_literal(name, v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_literal(name, each) for each in value) + "]"
    raise RunError(f"chat_template_kwargs: {name} is {type(value).__name__}, which a template cannot hold")
