"""Trains a student on a teacher's responses, and on its distribution of each of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from transformers import Trainer

from rlhf_plugins import Samples

IGNORED = -100  # label of a token that is not learned


def imitation_loss(student: Tensor, teacher: Tensor | None, labels: Tensor, share: float) -> Tensor:
    """(1 - share) CE(y, s) + share KL(t || s), a mean over response tokens, in nats (Hinton et al. 2015).

    Args:
        student: logits at each place, (tokens, vocabulary).
        teacher: the teacher's, of the same shape; None where share is 0.
        labels: the teacher's token at each place, (tokens,).
        share: the share of the token distributions.
    """
    loss = (1 - share) * cross_entropy(student, labels)
    if teacher is None:
        return loss
    log_t, log_s = teacher.log_softmax(-1), student.log_softmax(-1)
    return loss + share * (log_t.exp() * (log_t - log_s)).sum(-1).mean()


class Imitation(Trainer):
    """A transformers Trainer on rows of a `Collator`.

    Args:
        teacher: gives logits; None learns from responses alone.
        share: the share of the teacher's distributions in the loss.
    """

    def __init__(self, *given: Any, teacher: Any = None, share: float = 0.0, **options: Any) -> None:
        super().__init__(*given, **options)
        self.teacher, self.share = teacher, share
        self.model_accepts_loss_kwargs = False  # the loss is a mean, whatever a step accumulates

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        """The mean loss of the batch's response tokens."""
        asked = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        output = model(**asked)
        learned = inputs["labels"][:, 1:] != IGNORED
        theirs = None
        if self.teacher is not None:
            with torch.no_grad():
                theirs = self.teacher(**asked).logits[:, :-1][learned].float()
        ours = output.logits[:, :-1][learned].float()
        loss = imitation_loss(ours, theirs, inputs["labels"][:, 1:][learned], self.share)
        return (loss, output) if return_outputs else loss


@dataclass(frozen=True)
class Collator:
    """Rows as a batch that is padded on the right."""

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
        """-> input_ids, attention_mask and labels, (rows, longest); prompts and padding are not learned."""
        longest = max(len(row["input_ids"]) for row in rows)

        def filled(name: str, value: int) -> Tensor:
            return torch.stack(
                [pad(torch.tensor(row[name]), (0, longest - len(row[name])), value=value) for row in rows]
            )

        asked = {"input_ids": filled("input_ids", self.pad_id), "attention_mask": filled("attention_mask", 0)}
        return {**asked, "labels": filled("labels", IGNORED)}


def rows(samples: Samples) -> list[dict[str, list[int]]]:
    """A row for each response that has a token."""
    return [
        {
            "input_ids": [*prompt, *response],
            "attention_mask": [1] * (len(prompt) + len(response)),
            "labels": [IGNORED] * len(prompt) + list(response),
        }
        for prompt, response in zip(samples.prompt_ids, samples.response_ids, strict=True)
        if len(response)
    ]
