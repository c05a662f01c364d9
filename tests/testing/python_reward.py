"""A function that the reward `python` is tried with."""

from __future__ import annotations


def score(completions: list[str], **_: object) -> list[float]:
    return [float(len(completion)) for completion in completions]
