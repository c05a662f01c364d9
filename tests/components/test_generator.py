"""Generators in a recipe's words: the base, what a stage saved, and mixtures of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_plugins import RunError
from rlhf_plugins.components.generator import BaseModel, Mixture, Trained, register_generator
from rlhf_plugins.contract.run import Adapter, Base, Run
from rlhf_plugins.engine.policy import open_policy
from rlhf_plugins.recipe.assemble import component, spec
from rlhf_plugins.testing import tiny_base, tiny_run

PROMPTS = ["how is the\n", "who\n"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return tiny_run(Base(tiny_base(folder / "base").path, adapter=Adapter(r=2)), folder / "stage")


@pytest.fixture(scope="module")
def folder(run: Run) -> Path:
    policy = open_policy(None, run.base, trainable=True)
    with torch.no_grad():
        for weights in policy.backbone.model.parameters():
            weights.add_(0.1 if weights.requires_grad else 0.0)
    policy.save(run.folder / "model")
    return run.folder / "model"


def test_a_trained_policy_and_the_base_differ_and_share_the_base(run: Run, folder: Path) -> None:
    trained, base = (
        component("generator", words).build(run) for words in ({"use": "trained", "path": str(folder)}, "base")
    )
    samples = base.encode(PROMPTS, ["ant bee", "gas"])
    assert (trained.log_probs(samples) - base.log_probs(samples)).abs().max() > 0.01
    assert trained.backbone is base.backbone


def test_a_mixture_without_weights_is_the_mean(run: Run, folder: Path) -> None:
    parts = (Trained(str(folder)), BaseModel())
    ids = torch.tensor([[5, 6, 7]])
    expected = sum(part.build(run).next_logits(ids)[0] for part in parts) / 2
    torch.testing.assert_close(Mixture(policies=parts).build(run).next_logits(ids)[0], expected)


def test_a_trainable_base_has_a_new_adapter(run: Run) -> None:
    policy = BaseModel(trainable=True).build(run)
    samples = policy.encode(PROMPTS, ["ant bee", "gas"])
    assert policy.log_probs(samples, grad=True).requires_grad
    torch.testing.assert_close(policy.log_probs(samples), BaseModel().build(run).log_probs(samples))


def test_a_mixture_in_a_recipe_and_back() -> None:
    trained = {"use": "trained", "path": "a", "base": None, "trainable": False}
    words = {
        "use": "mixture",
        "policies": [{"use": "base", "trainable": False}, trained],
        "weights": [0.5, 0.5],
        "over": "weights",
    }
    assert spec(component("generator", words)) == words


@pytest.mark.parametrize(("parts", "weights"), [((), None), ((BaseModel(),), [1.0, 2.0])])
def test_weights_that_do_not_match_the_policies_are_refused(
    parts: tuple[BaseModel, ...], weights: list[float] | None
) -> None:
    with pytest.raises(ValueError, match="policies: at least one|2 numbers for 1 policies"):
        Mixture(policies=parts, weights=weights)


def test_names_of_the_recipe() -> None:
    assert sorted(register_generator()) == ["base", "mixture", "policy", "trained"]


def test_a_server_answers_and_says_what_failed(run: Run, serve: Callable[[Any], str]) -> None:
    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        said = body["messages"][-1]["content"]
        if said == "who\n":
            return 400, {}
        return 200, {"choices": [{"message": {"content": "ant bee"}, "finish_reason": said.strip()}]}

    policy = component("generator", {"use": "server", "url": serve(reply), "model": "m"}).build(run)
    samples = policy.sample(["length\n", "who\n", "how\n", "content_filter\n"], columns={"answer": [1, 2, 3, 4]})
    assert samples.responses == ["ant bee", "", "ant bee", ""]
    reasons = ["cut at max_new_tokens", "HTTP 400", None, "stopped by a content filter"]
    assert samples.columns == {"failed": reasons, "answer": [1, 2, 3, 4]}
    assert [len(ids) for ids in samples.response_ids] == [2, 1, 3, 1]  # ant, bee and, where it was not cut, the end
    with pytest.raises(RunError, match="answered no prompt: HTTP 400"):
        policy.sample(["who\n"])
    with pytest.raises(RunError, match="the protocol of its server has no min_p: leave it out"):
        policy.sample(["how\n"], top_p=0.9, top_k=5, min_p=0.1)
    with pytest.raises(RunError, match="m answers in text; its log-probabilities are not known"):
        policy.choose(["who\n"], ["ant", "bee"])
