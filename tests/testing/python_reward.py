"""Functions that the reward and the environment `python` and the step `accepted` are tried with."""

from __future__ import annotations


def score(completions: list[str], **_: object) -> list[float]:
    return [float(len(completion)) for completion in completions]


def reply(completions: list[str], **_: object) -> list[str | None]:
    return [" why?" if completion else None for completion in completions]


def short(prompt: object, response: object) -> bool:
    return len(str(response)) < 25
