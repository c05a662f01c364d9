"""`engine: compiled` compiles decoder layers where they are trained, and only if their trial agrees."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_plugins import engine
from rlhf_plugins.contract import processes
from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.data.batches.branches import BranchBatch, Layout, PromptBranches, collate
from rlhf_plugins.engine import compiled, set_engine
from rlhf_plugins.engine.forward import model_inputs, trunk_of
from rlhf_plugins.engine.half import trials
from rlhf_plugins.engine.layers import decoder_layers
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.engine.weights import loading
from rlhf_plugins.engine.weights.loading import load_causal, use_fast_paths, with_adapter
from rlhf_plugins.testing import tiny_base

from .test_backbone import shaken

Outcome = tuple[Tensor, list[Tensor]]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Each test compiles and says by itself."""
    compiled._compiled.cache_clear()
    compiled._say.cache_clear()
    yield
    compiled._compiled.cache_clear()


def model_of(folder: Path, architecture: str = "llama", **config: Any) -> Any:
    base = tiny_base(folder / "base", architecture, num_hidden_layers=3, **config)
    with set_engine("compiled"):
        model = shaken(with_adapter(load_causal(base), Adapter(r=4), "CAUSAL_LM"))
        use_fast_paths(model)
    return model.train()


def batch_of(layout: Layout, prompts: int = 2) -> BranchBatch:
    ids = list(range(5, 20))
    groups = [PromptBranches(ids[: 3 + i], [ids[i : 6 + i], ids[4 : 7 + i]]) for i in range(prompts)]
    return BranchBatch.from_inputs(collate(groups, 0, layout))


def outcome(model: Any, prompts: int = 2, autocast: bool = False) -> Outcome:
    """Hidden states, and the gradients of one direction of them."""
    layout, trunk = layout_of(model), trunk_of(model)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        states = trunk(**model_inputs(trunk, batch_of(layout, prompts))).last_hidden_state.float()
    (states * torch.linspace(-1, 1, states.numel()).sin().view_as(states)).sum().backward()
    return states.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def expected(model: Any, **options: Any) -> Outcome:
    with set_engine("auto"):
        return outcome(model, **options)


def assert_same(found: Outcome, wanted: Outcome, rounding: float = 1e-5) -> None:
    torch.testing.assert_close(found[0], wanted[0], rtol=rounding, atol=rounding)
    for gradient, other in zip(found[1], wanted[1], strict=True):
        assert (gradient - other).norm() <= rounding * other.norm() + 1e-12


Compiler = Callable[[Any], Callable[..., Any]]


def use(monkeypatch: pytest.MonkeyPatch, made: Callable[..., Any]) -> list[Any]:
    """Has `made(own, layer, ...)` stand in for what torch makes of a layer's forward pass; the layers that it ran."""
    ran: list[Any] = []

    def compile_(own: Any) -> Callable[..., Any]:
        def compute(layer: Any, *args: Any, **kwargs: Any) -> Any:
            ran.append(layer)
            return made(own.forward, layer, *args, **kwargs)

        return compute

    monkeypatch.setattr(compiled, "_compiled", compile_)
    return ran


def as_is(forward: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
    return forward(layer, *args, **kwargs)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """What dynamo traces is run as it is: no compiler is needed, and seconds are saved."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("half", [pytest.param(False, marks=pytest.mark.slow), True])
def test_compiled_layers_have_the_states_and_gradients_of_plain_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    if half:
        monkeypatch.setattr(loading, "_dtype", lambda base: torch.bfloat16)
        monkeypatch.setattr(trials, "passes", lambda *_: False)  # a compiler reads the layers of transformers and PEFT
    model = model_of(tmp_path)
    wanted = [expected(model, prompts=n, autocast=half) for n in (2, 3)]
    with set_engine("compiled"):
        found = [outcome(model, prompts=n, autocast=half) for n in (2, 3)]
    for own, other in zip(found, wanted, strict=True):
        assert_same(own, other, 1e-3 if half else 1e-4)
    assert [list(layer._rlhf_compiled.values()) for layer in list(decoder_layers(trunk_of(model)))[:-1]] == [[True]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_torchs_own_compiler_agrees_too(tmp_path: Path, architecture: str, checkpointed: bool) -> None:
    model = model_of(tmp_path, architecture)
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    wanted = [expected(model, prompts=n) for n in (2, 3)]
    with set_engine("compiled"):
        found = [outcome(model, prompts=n) for n in (2, 3)]
    for own, other in zip(found, wanted, strict=True):
        assert_same(own, other, 1e-4)
    assert all(all(layer._rlhf_compiled.values()) for layer in list(decoder_layers(trunk_of(model)))[:-1])


def test_every_layer_but_the_last_is_compiled_in_training_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = use(monkeypatch, as_is)
    model = model_of(tmp_path)
    layers = list(decoder_layers(trunk_of(model)) or ())
    with set_engine("compiled"):
        first = outcome(model)
        assert ran == [layers[0], layers[0], layers[1], layers[1]]  # its trial and its pass
        ran.clear()
        assert_same(outcome(model), first, 0.0)
        assert ran == layers[:2]
        ran.clear()
        with torch.no_grad():
            model(torch.tensor([[5, 6, 7]]))
    expected(model)
    assert ran == []


def test_a_layer_with_hooks_inside_computes_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = use(monkeypatch, as_is)
    model = model_of(tmp_path)
    layers = list(decoder_layers(trunk_of(model)) or ())
    hook = layers[0].mlp.register_forward_hook(lambda *given: given[-1] * 2)
    with set_engine("compiled"):
        outcome(model)
        assert ran == [layers[1]] * 2
        hook.remove()
        outcome(model)
        assert ran[2:] == [layers[0], layers[0], layers[1]]


class Halved(torch.autograd.Function):
    """Its argument, with half of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] / 2


def wrong(forward: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
    return forward(layer, *args, **kwargs) * 1.01


def wrong_gradient(forward: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
    return Halved.apply(forward(layer, *args, **kwargs))


def infinite(forward: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
    return forward(layer, *args, **kwargs) * float("inf")


def failing(forward: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("no C++ compiler was found\nand more")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (wrong, "its outputs or gradients differ by 1.00%"),
        (wrong_gradient, "its outputs or gradients differ by 50.00%"),
        (infinite, "its outputs or gradients differ by inf%"),
        (failing, "it failed (RuntimeError: no C++ compiler was found)"),
    ],
)
def test_what_differs_or_fails_is_said_once_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, made: Any, reason: str
) -> None:
    ran = use(monkeypatch, made)
    model = model_of(tmp_path)
    wanted = expected(model)
    with set_engine("compiled"), caplog.at_level(logging.WARNING, "rlhf_plugins.engine.compiled"):
        assert_same(outcome(model), wanted, 0.0)
        assert len(ran) == 2
        assert_same(outcome(model), wanted, 0.0)
    assert len(ran) == 2
    assert [record.message for record in caplog.records] == [f"LlamaDecoderLayer: is not compiled, because {reason}"]


def test_a_trial_for_which_memory_ran_out_comes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is computed again in halves then, and layers should not be compiled by chance."""

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    use(monkeypatch, full)
    model = model_of(tmp_path)
    with set_engine("compiled"), pytest.raises(torch.OutOfMemoryError):
        outcome(model)
    ran = use(monkeypatch, as_is)
    with set_engine("compiled"):
        outcome(model)
    assert len(ran) == 4


def test_a_trial_changes_neither_gradients_nor_the_random_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, as_is)
    model, state = model_of(tmp_path), torch.get_rng_state()
    wanted = expected(model)
    with set_engine("compiled"):
        assert_same(outcome(model), wanted, 0.0)
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_with_dropout_are_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch's compilers draw is not what a plain pass draws, so that its trial has nothing to compare."""
    ran = use(monkeypatch, as_is)
    model = model_of(tmp_path, attention_dropout=0.5)
    with set_engine("compiled"):
        outcome(model)
    assert len(ran) == 2


def test_it_is_taken_by_its_own_engine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.empty(2)
    assert not engine.COMPILED.active(weights)
    with set_engine("compiled"):
        assert engine.COMPILED.active(weights)
        assert engine.NORMS.active(weights)
        monkeypatch.setattr(processes, "launched", lambda: 2)
        model = model_of(tmp_path)
    assert not [m for m in model.modules() if isinstance(m, compiled.CompiledLayer)]


def test_a_replaced_layer_saves_and_prints_as_before(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    layers = list(decoder_layers(trunk_of(model)) or ())
    assert [isinstance(layer, compiled.CompiledLayer) for layer in layers] == [True, True, False]
    assert {type(layer).__name__ for layer in layers} == {"LlamaDecoderLayer"}
    assert not [name for name in model.state_dict() if "_orig_mod" in name]
