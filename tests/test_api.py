"""The public API is what `__all__` says."""

from __future__ import annotations

from typing import Any

import pytest

import rlhf_plugins

ANSWER = [{"role": "assistant", "content": "so"}]


def test_all_is_sorted_and_every_name_is_there() -> None:
    assert rlhf_plugins.__all__ == sorted(rlhf_plugins.__all__)
    assert [name for name in rlhf_plugins.__all__ if not hasattr(rlhf_plugins, name)] == []
    assert set(rlhf_plugins.__all__) <= set(dir(rlhf_plugins))  # which editors and notebooks complete


def test_every_name_of_ours_in_the_front_is_public() -> None:
    values = vars(rlhf_plugins).items()
    ours = {name for name, value in values if getattr(value, "__module__", "").startswith("rlhf_plugins.")}
    assert ours <= set(rlhf_plugins.__all__)


@pytest.mark.parametrize(("prompt", "said"), [("why", "so"), ([{"role": "user", "content": "why"}], ANSWER)])
def test_a_response_has_the_form_of_its_prompt(prompt: Any, said: Any) -> None:
    assert rlhf_plugins.as_response(prompt, "so") == said
    assert rlhf_plugins.as_response(prompt, said) == said
