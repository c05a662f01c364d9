"""The regularizer `ewc`: weights that earlier behaviour depends on stay near where the training starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from rlhf_continual.fisher import diagonal, penalty
from rlhf_plugins import DataFormat, Regularizer, Run, RunError, Samples, hookimpl, uses


@dataclass(frozen=True)
class EWC(Regularizer):
    """strength / 2 sum_i F_i (theta_i - theta*_i)^2, elastic weight consolidation (Kirkpatrick et al. 2017, eq. 3).

    theta* is where the training starts, F the diagonal of the Fisher information of its responses to old prompts, one
    response a prompt. It holds policies; a reward model has no responses of its own, and `l2_sp` is for it. Of a new
    LoRA adapter F holds B alone: while B is 0, nothing depends on A.
    """

    strength: Annotated[float, Field(gt=0, description="lambda, in old examples: F is a mean over them")] = 100.0
    data: DataFormat | None = uses("data_format", optional=True, tag="format")  # old prompts; None: the stage's
    prompts: Annotated[int, Field(ge=1, description="of which F is taken, at most")] = 128
    max_new_tokens: Annotated[int, Field(ge=1, description="where a response is cut")] = 64

    def build(self, run: Run, model: nn.Module) -> Callable[[], Tensor]:
        """Takes F at once. Raises RunError where the model is no policy, or there is no old prompt."""
        if not callable(getattr(model, "generate", None)):
            raise RunError(f"ewc holds policies, not a {type(model).__name__}; for a reward model use l2_sp")
        rows = (run.data if self.data is None else self.data.load_in(run)).prompts.get("train", ())[: self.prompts]
        if not rows:
            raise RunError("ewc: its data has no prompts to train on")
        weights = [each for each in model.parameters() if each.requires_grad]
        start = [each.detach().clone() for each in weights]
        with run.policy() as policy:
            samples = policy.sample(rows, max_new_tokens=self.max_new_tokens, seed=run.seed)
        fisher = diagonal(log_likelihoods(model, samples), weights)
        return lambda: penalty(weights, start, fisher, self.strength)


def log_likelihoods(model: Any, samples: Samples) -> Iterator[Tensor]:
    """log pi(y|x) of each response, with a graph; without dropout, and the model's mode is put back."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        for prompt, response in zip(samples.prompt_ids, samples.response_ids, strict=True):
            ids = torch.tensor([[*prompt, *response]], device=device)
            with torch.enable_grad():
                logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
                targets = ids[0, len(prompt) :].unsqueeze(1)
                yield logits.log_softmax(1).gather(1, targets).sum()
    finally:
        model.train(was_training)


@hookimpl
def register_regularizer() -> dict[str, type]:
    """The regularizer of this file."""
    return {"ewc": EWC}
