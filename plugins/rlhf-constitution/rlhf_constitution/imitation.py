"""The regularizer `imitation`: the supervised loss on responses that people chose, beside any loss of a policy."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from rlhf_constitution.texts import Text
from rlhf_plugins import DataFormat, Group, Regularizer, Run, RunError, Samples, hookimpl, uses


@dataclass(frozen=True)
class Imitation(Regularizer):
    """-strength E[log pi(y | x) / |y|] over people's rows, the term of PPO-ptx (Ouyang et al. 2022, equation 2).

    It holds a policy to what people wrote or chose while it learns from AI feedback, in each round of `self_improve`.
    """

    data: DataFormat = uses("data_format", tag="format")  # people's rows
    strength: Annotated[float, Field(gt=0, description="gamma, the weight of the supervised loss")] = 1.0
    batch: Annotated[int, Field(ge=1, description="responses that each optimizer step sees")] = 16

    def build(self, run: Run, model: nn.Module) -> _Imitation:
        """Raises RunError where the model is no policy, or the rows have no response to imitate."""
        if not callable(getattr(model, "generate", None)):
            raise RunError(f"imitation holds policies, not a {type(model).__name__}")
        rows = chosen(self.data.load_in(run).train)
        if not rows:
            raise RunError("imitation: its data has no response that people chose")
        prompts, responses = zip(*rows, strict=True)
        return _Imitation(self, model, run.policy().encode(prompts, responses), run.seed)


class _Imitation:
    """The term, and how often it was called, from which its rows follow."""

    def __init__(self, options: Imitation, model: nn.Module, samples: Samples, seed: int) -> None:
        self.options, self.model, self.samples, self.seed, self.calls = options, model, samples, seed, 0

    def __call__(self) -> Tensor:
        """A scalar with a gradient."""
        count = len(self.samples.responses)
        draw = random.Random(f"{self.seed} {self.calls}")
        self.calls += 1
        drawn = self.samples.take(draw.sample(range(count), min(self.options.batch, count)))
        return self.options.strength * supervised(self.model, drawn)

    def state_dict(self) -> dict[str, int]:
        """For a training that goes on after a kill."""
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The inverse of `state_dict`."""
        self.calls = state["calls"]


def chosen(groups: Sequence[Group]) -> list[tuple[Text, Text]]:
    """Prompts with the response that people chose, or the only one."""
    found = []
    for group in groups:
        pair = next((one for one in group.comparisons if not one.tied), None)
        if pair is not None or (len(group.responses) == 1 and group.label is not False):
            found.append((group.prompt, group.responses[pair.better if pair else 0]))
    return found


def supervised(model: Any, samples: Samples) -> Tensor:
    """The mean over responses of -log pi(y | x) / |y|, in nats a token: a scalar with a gradient."""
    device = next(model.parameters()).device
    rows = [torch.tensor([*p, *r]) for p, r in zip(samples.prompt_ids, samples.response_ids, strict=True)]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)  # (B, L)
    places = torch.arange(ids.shape[1], device=device)
    starts, ends = (
        torch.tensor(counts, device=device).unsqueeze(1)
        for counts in (list(map(len, samples.prompt_ids)), list(map(len, rows)))
    )
    logits = model(input_ids=ids, attention_mask=(places < ends).long()).logits[:, :-1].float()
    logps = logits.log_softmax(2).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)  # (B, L - 1)
    mask = ((places >= starts) & (places < ends))[:, 1:]
    return -((logps * mask).sum(1) / mask.sum(1)).mean()


@hookimpl
def register_regularizer() -> dict[str, type]:
    """The regularizer of this file."""
    return {"imitation": Imitation}
