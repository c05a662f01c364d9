"""A base that cannot be quantized is refused before it would be opened as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_plugins.contract.run import Base
from rlhf_plugins.engine.weights.loading import load_trunk
from rlhf_plugins.errors import RunError
from rlhf_plugins.testing import tiny_base


def test_a_base_that_is_stored_quantized_is_not_quantized_again(tmp_path: Path) -> None:
    config = Path(tiny_base(tmp_path).path) / "config.json"
    stored = {"quant_method": "gptq", "bits": 4}
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": stored}))
    with pytest.raises(RunError, match=r"is stored quantized \(gptq\), so leave `quantization` out"):
        load_trunk(Base(str(tmp_path), "int8"))


def test_a_base_without_linear_layers_is_refused(tmp_path: Path) -> None:
    base = tiny_base(tmp_path, num_hidden_layers=0)
    with pytest.raises(RunError, match="has no layer that could be in nf4"):
        load_trunk(Base(base.path, "nf4"))


def test_an_unknown_quantization_is_none_of_ours(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    with pytest.raises(RunError, match=r"unknown quantization 'nf5' \(did you mean nf4\? known: int8, nf4\)"):
        load_trunk(Base(base.path, "nf5"))
