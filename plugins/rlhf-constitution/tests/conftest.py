"""A server of a model on this machine, for judges and revisers that ask one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from openai_server import Reply, serving


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], str]]:
    """Starts a server by the function that answers, and gives its address."""
    with serving() as start:
        yield start
