"""Which tokens made a reward: integrated gradients with their error, and leaving words out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_plugins import RunError, Samples

if TYPE_CHECKING:
    from torch import Tensor

ENOUGH = 1e-3  # error of completeness, as a share of the change in reward
MOST = 256  # points of the path


@dataclass(frozen=True)
class Attribution:
    """The parts of a reward by response token; they sum to the reward less that of the baseline, but for `error`.

    Args:
        reward: the reward of the response.
        baseline: reward of the same prompt where every token of the response is its last one, its end.
        parts: one a token.
        error: |sum of the parts - (reward - baseline)| / |reward - baseline|.
    """

    reward: float
    baseline: float
    parts: tuple[float, ...]
    error: float


def integrated_gradients(judge: Any, sample: Samples, points: int = 16) -> Attribution:
    """(e - e_0) times the integral of dR / de on the straight path from e_0 to e (Sundararajan et al. 2017).

    e_0 is the embedding of the response's last token, its end, at every place. (From 0, a network that normalises its
    embeddings would jump at the first point.) The integral is by Gauss-Legendre quadrature, whose points are doubled
    until the parts are complete, at most to 256.

    Args:
        judge: a reward model as `load_reward_model` opens it.
        sample: one response.
        points: the points of the path, at first.

    Raises:
        RunError: the reward model has no embeddings of tokens.
    """
    if getattr(judge.module, "trunk", None) is None:
        raise RunError("integrated gradients need a reward model that is one network: no ensemble, no function")
    count = len(sample.response_ids[0])
    judge.predict(sample)  # the engine tries fast paths at first, which a hook would disturb
    whole, start = (_at(judge, sample, share)[0] for share in (1.0, 0.0))
    while True:
        nodes, weights = np.polynomial.legendre.leggauss(points)
        parts = np.zeros(count)
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            parts += weight * _at(judge, sample, float(node))[1]
        error = abs(parts.sum() - (whole - start)) / max(abs(whole - start), 1e-9)
        if error <= ENOUGH or points >= MOST:
            return Attribution(whole, start, tuple(map(float, parts)), float(error))
        points *= 2


def _at(judge: Any, sample: Samples, share: float) -> tuple[float, Any]:
    """The reward at e_0 + share (e - e_0), and its gradient there times e - e_0, (count,)."""
    import torch

    with _moved(judge, sample, share) as seen:
        reward = judge.predict(sample, grad=True).reward[0]
    points, path = seen[0]
    gradient = torch.autograd.grad(reward, points)[0]
    return float(reward.detach()), (gradient * path).sum(-1)[0].double().cpu().numpy()


@contextmanager
def _moved(judge: Any, sample: Samples, share: float) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Moves the embeddings of the response; the list holds where to, a leaf, and e - e_0, both (1, count, width)."""
    import torch

    seen: list[tuple[Tensor, Tensor]] = []
    prompt, whole = len(sample.prompt_ids[0]), [*sample.prompt_ids[0], *sample.response_ids[0]]

    def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
        if inputs[0][:, : len(whole)].tolist() != [whole]:
            raise RunError("the model does not read the prompt and the response in one piece, as gradients need it")
        own = output[:, prompt : len(whole)].detach()
        path = own - own[:, -1:]
        points = (own - (1 - share) * path).requires_grad_()
        seen.append((points, path))
        places = torch.arange(prompt, len(whole), device=output.device)
        return output.detach().index_copy(1, places, points)

    handle = judge.module.trunk.get_input_embeddings().register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def left_out(judge: Any, prompt: Any, response: str) -> list[tuple[str, float]]:
    """Each word with what the reward loses without it."""
    words = response.split()
    shorter = [" ".join([*words[:place], *words[place + 1 :]]) for place in range(len(words))]
    texts: Sequence[str] = [" ".join(words), *shorter]
    rewards = judge.predict(judge.encode([prompt] * len(texts), texts)).reward.tolist()
    return [(word, rewards[0] - without) for word, without in zip(words, rewards[1:], strict=True)]
