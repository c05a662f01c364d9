"""Runs a text classifier of transformers over texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlhf_plugins.engine.weights.loading import device
from rlhf_plugins.errors import RunError

BATCH = 16  # texts at once


@dataclass(frozen=True)
class Classifier:
    """A sequence classifier with its tokenizer."""

    model: Any
    tokenizer: Any
    labels: tuple[str, ...]

    def __call__(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """The probability of each label of each text: softmax, or sigmoid where the model has several labels a text."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: dict[int, dict[str, float]] = {}
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            for place, row in zip(part, self._probabilities([texts[i] for i in part]), strict=True):
                found[place] = dict(zip(self.labels, row, strict=True))
        return [found[i] for i in range(len(texts))]

    @torch.no_grad()
    def _probabilities(self, texts: list[str]) -> list[list[float]]:
        longest = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 512))
        read = self.tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        logits = self.model(**read.to(self.model.device)).logits.float()
        several = self.model.config.problem_type == "multi_label_classification"
        rows: list[list[float]] = (logits.sigmoid() if several else logits.softmax(-1)).tolist()
        return rows


def open_classifier(path: str) -> Classifier:
    """Raises RunError where there is none, or it has no two labels."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        model = AutoModelForSequenceClassification.from_pretrained(path).to(device()).eval()
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: is no text classifier ({type(error).__name__}: {error})") from error
    tokenizer.truncation_side = "left"  # a response is at the end
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    labels = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
    if len(labels) < 2:
        raise RunError(f"{path}: gives one number, not the probabilities of labels")
    return Classifier(model, tokenizer, labels)
