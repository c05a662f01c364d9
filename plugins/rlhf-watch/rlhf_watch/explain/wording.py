"""`rlhf explain`: the rows of a file with what made their rewards, as lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_plugins import DataError, load_reward_model
from rlhf_watch.explain.attribution import ENOUGH, integrated_gradients, left_out
from rlhf_watch.shift.report import Texts

SHOWN = 6  # tokens and words of a response


def lines(model: str, file: Path, rows: int) -> Iterator[str]:
    """The first rows. Raises DataError where the file has none with a response."""
    pairs = Texts.read(file).pairs[:rows]
    if not pairs:
        raise DataError(f"{file}: no row has a `response` or `chosen`")
    judge = load_reward_model(model)
    for prompt, response in pairs:
        yield from _explained(judge, prompt, response)


def _explained(judge: Any, prompt: Any, response: Any) -> Iterator[str]:
    sample = judge.encode([prompt], [response])
    found = integrated_gradients(judge, sample)
    tokenizer = judge.encoder.tokenizer
    names = [tokenizer.decode([token]) for token in sample.response_ids[0]]
    yield f"{prompt!s:.60}: reward {found.reward:.3f}, {found.reward - found.baseline:+.3f} from the response"
    yield f"  tokens: {_strongest(list(zip(names, found.parts, strict=True)))}"
    if isinstance(response, str):
        yield f"  without a word: {_strongest(left_out(judge, prompt, response))}"
    if found.error > ENOUGH:
        yield f"  the tokens' parts miss {found.error:.1%} of the change: they are an approximation here"


def _strongest(parts: list[tuple[str, float]]) -> str:
    ranked = sorted(parts, key=lambda part: -abs(part[1]))[:SHOWN]
    return ", ".join(f"{name.strip()!r} {value:+.3f}" for name, value in ranked)
