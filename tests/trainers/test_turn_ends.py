"""Responses stop at the end of a turn, also where the template closes turns with another token than EOS."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from templates import chat_base

from rlhf_plugins.testing import tiny_base

from . import online_parts


def test_a_turn_that_ends_with_another_token_than_eos_ends_a_response(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made = online_parts.trainer(chat_base(tmp_path / "base", "chatml"), tmp_path / "out")
    names = made._tokenizer.convert_ids_to_tokens(made.eos_token_ids)
    assert names == ["<eos>", "<end>"]
    assert made.generation_config.eos_token_id == made.model.generation_config.eos_token_id == made.eos_token_ids
    assert "responses also end with <end>" in caplog.text


@pytest.mark.parametrize("ends", [7, [7, 1]], ids=["one", "list"])
def test_a_response_ends_with_what_generation_kwargs_name_too(tmp_path: Path, ends: int | list[int]) -> None:
    """transformers stops there, so what follows are no tokens of the response."""
    options = {"generation_kwargs": {"eos_token_id": ends, "suppress_tokens": [*range(7), *range(8, 21)]}}
    made = online_parts.trainer(tiny_base(tmp_path / "base"), tmp_path / "out", **options)
    assert made.eos_token_ids == [1, 7]
    assert online_parts.samples_of(made, ["how is", "how is"]).response_ids == [[7], [7]]
