"""`rlhf explain`: the rows of a file with what made their rewards, as lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_plugins import DataError, Samples, load_reward_model
from rlhf_watch.explain.attribution import ENOUGH, integrated_gradients, left_out
from rlhf_watch.explain.layers import read_layers
from rlhf_watch.explain.nearest import Neighbours
from rlhf_watch.rows import parsed

SHOWN = 6  # tokens and words of a response
NEAREST = 3


def lines(model: str, file: Path, rows: int, layers: bool = False, train: Path | None = None) -> Iterator[str]:
    """The first rows. Raises DataError where a file has none with a response."""
    pairs = _pairs(file)[:rows]
    near = None if train is None else _pairs(train)
    judge = load_reward_model(model)
    known = near and Neighbours.of(judge, near)
    for prompt, response in pairs:
        yield from _explained(judge, prompt, response)
        sample = judge.encode([prompt], [response])
        if layers:
            yield from _layers(judge, sample)
        if known:
            yield from _near(known, judge, sample)


def _pairs(file: Path) -> list[tuple[Any, Any]]:
    rows = parsed(file, _pair, "a row should be an object with a `prompt`")
    pairs = [pair for row in rows for pair in row]
    if not pairs:
        raise DataError(f"{file}: no row has a `response` or `chosen`")
    return pairs


def _pair(row: dict[str, Any]) -> list[tuple[Any, Any]]:
    """The prompt and the response of a row that has one."""
    return [(row["prompt"], row[name]) for name in ("response", "chosen") if name in row][:1]


@dataclass(frozen=True)
class Explained:
    """A reward with what made it, the strongest parts in words.

    Args:
        reward: the reward of the response.
        change: from the response of nothing but ends.
        tokens: integrated gradients.
        words: what the reward loses without each; empty where the response is no text.
        dimensions: the dimensions of the reward; empty where it has none.
        error: the error of the tokens' parts, as a share of the change.
    """

    reward: float
    change: float
    tokens: str
    words: str
    dimensions: str
    error: float

    @classmethod
    def of(cls, judge: Any, prompt: Any, response: Any) -> Explained:
        """Raises RunError where the reward model is not one network."""
        sample = judge.encode([prompt], [response])
        found = integrated_gradients(judge, sample)
        names = [judge.encoder.tokenizer.decode([token]) for token in sample.response_ids[0]]
        return cls(
            found.reward,
            found.reward - found.baseline,
            _strongest(list(zip(names, found.parts, strict=True))),
            _strongest(left_out(judge, prompt, response)) if isinstance(response, str) else "",
            ", ".join(f"{name} {float(each[0]):+.3f}" for name, each in judge.predict(sample).dimensions.items()),
            found.error,
        )


def _explained(judge: Any, prompt: Any, response: Any) -> Iterator[str]:
    found = Explained.of(judge, prompt, response)
    yield f"{_short(prompt)}: reward {found.reward:.3f}, {found.change:+.3f} from the response"
    yield f"  tokens: {found.tokens}"
    if found.words:
        yield f"  without a word: {found.words}"
    if found.dimensions:
        yield f"  dimensions: {found.dimensions}"
    if found.error > ENOUGH:
        yield f"  the tokens' parts miss {found.error:.1%} of the change: they are an approximation here"


def _layers(judge: Any, sample: Samples) -> Iterator[str]:
    found, decode = read_layers(judge, sample), judge.encoder.tokenizer.decode
    ids = [*sample.prompt_ids[0], *sample.response_ids[0]]
    yield f"  reward at the embeddings: {found.rewards[0]:+.3f}"
    for layer, reward in enumerate(found.rewards[1:]):
        head, token, weight = found.strongest(layer)
        looks = f"head {head} reads {decode([ids[token]]).strip()!r} (token {token}) with {weight:.2f}"
        yield f"  layer {layer}: {reward:+.3f}; the last token's {looks}"


def _near(known: Neighbours, judge: Any, sample: Samples) -> Iterator[str]:
    features = judge.predict(sample).features[0].double().numpy()
    for prompt, response, reward, distance in known.nearest(features, NEAREST):
        yield f"  near ({distance:.2f} deviations, reward {reward:+.3f}): {_short(prompt)} -> {_short(response)}"


def _short(text: Any) -> str:
    return f"{' '.join(str(text).split()):.60}"


def _strongest(parts: list[tuple[str, float]]) -> str:
    ranked = sorted(parts, key=lambda part: -abs(part[1]))[:SHOWN]
    return ", ".join(f"{name.strip()!r} {value:+.3f}" for name, value in ranked)
