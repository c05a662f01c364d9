"""A reward of any kind as what a probe asks: text in, numbers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_plugins import DataError, Samples
from rlhf_watch.ab.paired import Numbers

Encode = Callable[[Sequence[Any], Sequence[Any]], Samples]


@dataclass(frozen=True)
class Asked:
    """A reward.

    Args:
        judge: has `predict`.
        encode: makes tokens of prompts and responses.
        tokenizer: the tokenizer of these tokens.
    """

    judge: Any
    encode: Encode
    tokenizer: Any

    def __call__(self, prompts: Sequence[Any], responses: Sequence[Any]) -> Numbers:
        """Rewards, (n,); NaN where the reward abstains or cannot take a response, such as a longer one."""
        found = np.full(len(responses), np.nan)
        taken = [i for i, pair in enumerate(zip(prompts, responses, strict=True)) if self._takes(*pair)]
        if not taken:
            return found
        said = self.judge.predict(self.encode([prompts[i] for i in taken], [responses[i] for i in taken]))
        found[taken] = said.reward.double().cpu().numpy()
        if said.abstained is not None:
            found[np.array(taken)[said.abstained.cpu().numpy()]] = np.nan
        return found

    def reads(self, text: str) -> bool:
        """Whether each token is one that the tokenizer knows."""
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        return unknown is None or unknown not in self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _takes(self, prompt: Any, response: Any) -> bool:
        try:
            self.encode([prompt], [response])
        except DataError:
            return False
        return True
