"""One more low-rank adapter on a reward model, which is fitted to judgements and exchanged; all other weights stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_personal.head import of_nobody
from rlhf_plugins import Group, RunError, strict_pairs

Theta: TypeAlias = Mapping[str, Tensor]  # weights by name
ADAPTER = "of_a_user"


@dataclass(frozen=True)
class Fit:
    """How delta is fitted.

    Args:
        steps: the steps of Adam, from 0; none without a judgement.
        learning_rate: the learning rate of Adam.
        strength: one over the variance of each number of delta before anything is judged.
        batch: judgements at once.
    """

    steps: int = 20
    learning_rate: float = 3e-3
    strength: float = 1.0
    batch: int = 32


class Adaptable:
    """A reward model with an adapter of rank `rank` on its linear layers; theta is the adapter and the head.

    The adapter's B starts at 0, so that the rewards are the model's own.

    Args:
        model: a handle of a saved reward model that nothing else uses.
        rank: the rank of the adapter.
        seed: the seed of its A.

    Raises:
        RunError: it is an ensemble or a function.
    """

    def __init__(self, model: Any, rank: int, seed: int = 0) -> None:
        from peft import LoraConfig, PeftModel, get_peft_model

        trunk = getattr(getattr(model, "module", None), "trunk", None)
        if trunk is None:
            raise RunError("adapters: need a saved reward model that is no ensemble")
        self.model = model
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", bias="none")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if isinstance(trunk, PeftModel):
                trunk.add_adapter(ADAPTER, config)
                trunk.base_model.set_adapter([trunk.active_adapter, ADAPTER])
            else:
                model.module.trunk = get_peft_model(trunk, config, ADAPTER)
        named = dict(model.module.named_parameters())
        self._weights = {n: w for n, w in named.items() if f".{ADAPTER}." in n or n.startswith("head.")}
        for name, weight in named.items():
            weight.requires_grad_(name in self._weights)

    @property
    def theta(self) -> dict[str, Tensor]:
        """A copy of the weights that are in the model."""
        return {name: weight.detach().clone() for name, weight in self._weights.items()}

    def put(self, theta: Theta) -> None:
        """Puts weights into the model. Raises RunError for those of another model."""
        if {n: w.shape for n, w in theta.items()} != {n: w.shape for n, w in self._weights.items()}:
            raise RunError("adapters: the weights are those of another reward model or rank")
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(theta[name])

    def fitted(self, start: Theta, groups: Sequence[Group], fit: Fit) -> dict[str, Tensor]:
        """delta that lowers -sum_i log sigmoid(r(better_i) - r(worse_i)) + strength / 2 |delta|^2 from 0.

        r is the reward of start + delta; a soft label p makes it p log sigmoid(gap) + (1 - p) log sigmoid(-gap). It is
        the negative log-likelihood of n judgements under a normal prior (Rajeswaran et al. 2019, equation 3); a step is
        taken on 1 / n of it, over `batch` judgements in turn. The model is left with start + delta.
        """
        self.put(start)
        pairs = strict_pairs(groups)
        size = min(fit.batch, len(pairs))
        optimizer = torch.optim.Adam(self._weights.values(), lr=fit.learning_rate)
        for step in range(fit.steps if pairs else 0):
            some = [pairs[i % len(pairs)] for i in range(step * size, (step + 1) * size)]
            optimizer.zero_grad()
            moved = sum((weight - start[name]).square().sum() for name, weight in self._weights.items())
            gaps, p = self.gaps(some, grad=True), likely(some)
            loss = -(p * logsigmoid(gaps) + (1 - p) * logsigmoid(-gaps)).mean()
            (loss + fit.strength / (2 * len(pairs)) * moved.cpu()).backward()
            optimizer.step()
        return {name: weight.detach() - start[name] for name, weight in self._weights.items()}

    def gaps(self, pairs: Sequence[Group], grad: bool = False) -> Tensor:
        """The reward of the first response of each pair less that of the second, (pairs,)."""
        asked = [pair for pair in pairs for _ in range(2)]
        samples = of_nobody(self.model.encode(asked, [text for pair in pairs for text in pair.responses]))
        rewards: Tensor = self.model.predict(samples, grad=grad).reward
        return rewards[::2] - rewards[1::2]


def likely(pairs: Sequence[Group]) -> Tensor:
    """How likely the first response of each pair is the better one, (pairs,): 1 where that is certain."""
    soft = [pair.comparisons[0].probability for pair in pairs]
    return torch.tensor([1.0 if p is None else p for p in soft])


def moved(start: Theta, deltas: Sequence[Theta], rate: float) -> dict[str, Tensor]:
    """theta_meta + rate * mean of the deltas (Reptile, Nichol et al. 2018, section 2, with several tasks at once)."""
    return {
        name: weight + rate * torch.stack([delta[name] for delta in deltas]).mean(0) for name, weight in start.items()
    }


def added(start: Theta, delta: Theta) -> dict[str, Tensor]:
    """theta_meta + delta."""
    return {name: weight + delta[name] for name, weight in start.items()}
