"""Responses stop at the end of a turn, also where the template closes turns with another token than EOS."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from templates import chat_base

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
