"""An HTML document of a template: one file with the style and the script of reports, and no external request."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlhf_plugins.errors import shown
from rlhf_plugins.report import words

_HERE = Path(__file__).parent
# Control characters of a response, other than tab and newline, as their visible pictures; `shown` writes out others.
_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {0x7F: 0x2421}


def document(template: str, title: str, **values: Any) -> str:
    """The template with these values, all text of which is escaped."""
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            # Markup is safe here: both are files of this package, and the hash lets no other script run.
            style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=b64encode(sha256(script.encode()).digest()).decode(),
            **values,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: shown(value) if type(value) is str else value,
    )
    environment.globals |= {"words": words}
    environment.filters |= {"handed": words.handed, "visible": lambda text: str(text).translate(_PICTURES)}
    return environment
