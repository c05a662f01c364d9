"""A policy behind a server: it answers prompts in text. Whatever needs its weights or log-probabilities is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

from torch import Tensor

from rlhf_plugins.contract.rows import CUT_SHORT, EMPTY, FAILED, FILTERED, LEARNED, Samples, Text
from rlhf_plugins.contract.sampling import changed
from rlhf_plugins.data.batches.branches import BranchBatch
from rlhf_plugins.data.batches.tokens import RowEncoder, unended
from rlhf_plugins.data.turns import TOOLS, as_messages, as_response
from rlhf_plugins.engine.policy import Handle
from rlhf_plugins.engine.sampling import Decoding
from rlhf_plugins.engine.servers.served import Server
from rlhf_plugins.errors import RunError

logger = logging.getLogger(__name__)


class ServedPolicy(Handle):
    """A model on a server.

    Args:
        server: the server that was reached.
        encoder: whose tokens its responses are given in, that of the run's base.
        parallel: calls at once.
    """

    def __init__(self, server: Server, encoder: RowEncoder, parallel: int) -> None:
        super().__init__()
        self.server, self.encoder, self.parallel = server, encoder, parallel

    @property
    def module(self) -> Any:
        """None is here."""
        self._refuse()

    @property
    def models(self) -> Sequence[Any]:
        """None is here."""
        self._refuse()

    def logits(self, batch: BranchBatch) -> Tensor:
        """Refused."""
        self._refuse()

    def next_logits(self, ids: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """Refused."""
        self._refuse()

    def _active(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def _logps(self, batch: BranchBatch, temperature: float) -> Tensor:
        self._refuse()

    def _weights(self) -> Iterator[Tensor]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise RunError(f"generator server: {self.server.model} answers in text; its log-probabilities are not known")

    def _sample(self, prompts: Sequence[Text], n: int, decoding: Decoding) -> Samples:
        """The server's answers. Raises RunError where it answers none, or its protocol lacks what is asked for."""
        if others := sorted(changed(decoding.options).keys() - {"top_p"}):
            raise RunError(f"generator server: the protocol of its server has no {others[0]}: leave it out")
        rows = [prompt for prompt in prompts for _ in range(n)]
        with ThreadPoolExecutor(self.parallel) as calls:
            found = list(calls.map(lambda i: self._answer(rows[i], decoding, decoding.seed + i), range(len(rows))))
        reasons = [reason for _, reason in found]
        lost = [reason for text, reason in found if not text]
        if rows and len(lost) == len(rows):
            raise RunError(f"generator server: {self.server.model} answered no prompt: {lost[0]}")
        if lost:
            name = self.server.model
            logger.warning("%s gave no answer to %d of %d prompts: %s", name, len(lost), len(rows), lost[0])
        texts = [text for text, _ in found]
        starts = [self.encoder.encode_start(prompt) for prompt in rows]
        ids = [self._ids(prompt, text) for prompt, text in zip(rows, texts, strict=True)]
        whole = Samples(rows, texts, starts, ids, {FAILED: reasons})
        return unended(whole, [reason == CUT_SHORT for reason in reasons], self.encoder.tokenizer)

    def _answer(self, prompt: Text, decoding: Decoding, seed: int) -> tuple[str, str | None]:
        """The text, and why it is empty or cut."""
        turns = as_messages(prompt)
        request = {
            "messages": [
                {name: value for name, value in turn.items() if name not in (TOOLS, LEARNED)} for turn in turns
            ],
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "max_tokens": decoding.max_new_tokens,
            "seed": seed,
        }
        tools = turns[0].get(TOOLS) if turns else None
        choice = self.server.complete({**request, **({TOOLS: tools} if tools else {})})
        if isinstance(choice, str):
            return "", choice
        text = str((choice.get("message") or {}).get("content") or "")
        reason = {"length": CUT_SHORT, "content_filter": FILTERED}.get(str(choice.get("finish_reason")))
        return ("", reason) if reason == FILTERED else (text, reason if text.strip() else EMPTY)

    def _ids(self, prompt: Text, text: str) -> list[int]:
        return self.encoder.encode(prompt, as_response(prompt, text))[1]
