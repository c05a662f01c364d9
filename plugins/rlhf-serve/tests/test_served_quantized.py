"""A reward model served in 8 or 4 bits: what that costs and saves is printed before, and no client mistakes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from rlhf_serve.commands import Quantization, serve
from rlhf_serve.compared import Measured, compared, pairs_of, weight_bytes
from torch import nn

from rlhf_plugins import Adapter, Base, Data, DataError, RunError, load_reward_model, session, set_engine
from rlhf_plugins.testing import tiny_base, tiny_pairs

ASKED = ["how is the ant\n", "who\n"], ["bee cat dog", "mud mud log ice key"]
SIZES = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}  # blocks of 64 weights


def trained(folder: Path, stage: str = "reward_model", **base: Any) -> str:
    """The folder of a reward model or an ensemble."""
    made_of = Base(tiny_base(folder / "base", "llama", **SIZES).path, **base)
    options = {"trainer": {"max_steps": 3, "learning_rate": 1e-3}, "tokens_per_batch": None}
    made = session(made_of, Data(tiny_pairs(8), tiny_pairs(4, seed=1)), folder / "run").train(
        {"use": stage, **options}, name="reward"
    )
    return str(made.rewards["reward"]["path"])


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    return trained(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session", params=["reward_model", "adapter", "reward_ensemble"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """All weights of a trunk, an adapter, and adapters that share a base."""
    if request.param == "reward_model":
        return trained(tmp_path_factory.mktemp("saved"))
    stage = request.param.replace("adapter", "reward_model")
    return trained(tmp_path_factory.mktemp("saved"), stage, adapter=Adapter(r=2))


@pytest.fixture
def plain_engine() -> Iterator[None]:
    """Layers of their own kind, without fast paths."""
    with set_engine("plain"):
        yield


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the command up to where it would listen; gives what it serves, by name."""
    names: list[str] = []
    monkeypatch.setenv("RLHF_SERVE_TOKEN", "t")
    monkeypatch.setattr("rlhf_serve.app.app", lambda batches, name, token: names.append(name) or batches.close())
    monkeypatch.setattr("uvicorn.Server", lambda config: SimpleNamespace(run=lambda sockets: sockets[0].close()))

    def run(model: str, quantization: str | None = None, compare: Path | None = None) -> str:
        chosen = quantization and Quantization(quantization)
        serve(model, port=0, quantization=chosen or None, compare=compare and str(compare))
        return names[-1]

    return run


def file_of(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair(chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"prompt": "who\n", "chosen": chosen, "rejected": rejected, **more}


def test_what_it_costs_is_arithmetic() -> None:
    plain, rounded = Measured(4 * 2**20, [1.0, 2.0], [0.0, 3.0]), Measured(2**20, [1.5, 3.0], [0.0, 2.5])
    assert list(compared(plain, rounded, "nf4")) == [
        "weights: 1.0 MiB in nf4, 4.0 MiB without (25%)",
        "rewards of 4 responses: move by 0.5 on average and 1 at most; those of a pair are 1 apart on average",
        "accuracy on 2 pairs: 100.0% in nf4, 50.0% without",
    ]
    assert Measured(1, [1.0], [1.0]).accuracy == 0.5


def test_a_weight_that_two_layers_share_counts_once() -> None:
    layer = nn.Linear(4, 3)
    assert weight_bytes(nn.ModuleList([layer, layer, nn.Linear(2, 1, bias=False)])) == 4 * (4 * 3 + 3) + 4 * 2


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_the_served_model_is_the_quantized_one(
    whole: str, served: Callable[..., str], tmp_path: Path, quantization: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = file_of(tmp_path, pair("ant bee", "mud"), pair("cat", "log ice"), pair("ant", "ant"))
    assert served(whole, quantization, rows) == f"{whole} in {quantization}"
    said = capsys.readouterr().out.splitlines()
    assert ", ".join(line.split(":")[0] for line in said[:3]) == "weights, rewards of 4 responses, accuracy on 2 pairs"
    assert said[3] == f"{rows}: 1 rows were left out, which are no pairs of a better and a worse response"
    assert said[4].startswith(f"{whole} in {quantization} is served at http://127.0.0.1:")


def opened(saved: str, quantization: str) -> tuple[Any, Any]:
    """A model, and the same quantized, which is smaller and scores otherwise."""
    plain, rounded = load_reward_model(saved), load_reward_model(saved, quantization=quantization)
    assert plain.module
    assert rounded.module
    assert weight_bytes(rounded.module) < 0.6 * weight_bytes(plain.module)
    assert (of(plain) - of(rounded)).abs().max() > 1e-4
    return plain, rounded


def of(model: Any) -> Any:
    """Its rewards."""
    return model.predict(model.encode(*ASKED)).reward


def test_in_8_bits_rewards_move_a_little(saved: str) -> None:
    plain, rounded = opened(saved, "int8")
    assert (of(plain) - of(rounded)).abs().max() < 0.1


def test_in_4_bits_rewards_are_those_of_the_rounded_weights(saved: str, plain_engine: None) -> None:
    plain, rounded = opened(saved, "nf4")
    layers = dict(plain.module.named_modules())
    for name, layer in rounded.module.named_modules():
        if isinstance(layer, Linear4bit):
            layers[name].weight.data.copy_(dequantize_4bit(layer.weight.data, layer.weight.quant_state))
    assert (of(plain) - of(rounded)).abs().max() < 0.05  # some CPUs compute NF4 in bfloat16


def test_a_model_that_cannot_be_quantized_is_refused(served: Callable[..., str], whole: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"unknown quantization 'int4' \(did you mean int8\? known: int8, nf4\)"):
        load_reward_model(whole, quantization="int4")
    with pytest.raises(RunError, match="--compare prints what --quantization costs: give one"):
        served(whole, compare=tmp_path / "pairs.jsonl")
    own = trained(tmp_path, quantization="nf4", adapter=Adapter(r=2))
    with pytest.raises(RunError, match="was trained on its base in nf4, so leave `quantization` out"):
        served(own, "int8")
    assert served(own) == own


def test_a_file_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no response is preferred to another"):
        pairs_of(str(file_of(tmp_path, pair("ant", "bee", probability=0.5))))
    found, left_out = pairs_of(str(file_of(tmp_path, pair("ant", "bee"))))
    assert (found[0].responses, left_out) == (("ant", "bee"), 0)
