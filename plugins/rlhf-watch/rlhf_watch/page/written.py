"""What the page reads, as JSON."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, to_json


def as_json(data: Any) -> str:
    """The data as JSON in one line."""
    try:
        return to_json(data).decode()
    except PydanticSerializationError:  # half a surrogate pair in a text, which the slower one writes
        return json.dumps(data)
