"""One response, token by token as it is sampled."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import torch

from rlhf_plugins.contract.rows import Text
from rlhf_plugins.engine.sampling import Decoding, drawn
from rlhf_plugins.errors import DataError

if TYPE_CHECKING:
    from rlhf_plugins.engine.policy import Handle

UNFINISHED = "\ufffd"  # what the first bytes of a character decode to


def stream(policy: Handle, prompt: Text, decoding: Decoding) -> Generator[str, None, bool]:
    """Yields the text of a response in pieces, from the policy's own distribution, and returns whether it ended itself.

    Raises:
        DataError: the prompt cannot be tokenized, has no token, or leaves the model no room for a response.
    """
    ids = policy.encoder.encode_start(prompt)
    ends, device = policy.ends, policy.models[0].device
    generator = torch.Generator().manual_seed(decoding.seed)
    written: list[int] = []
    shown, step, cache = "", ids, None
    for _ in range(room(policy, ids, decoding.max_new_tokens)):
        logits, cache = policy.next_logits(torch.tensor([step], device=device), cache)
        text = torch.tensor([ids + written])
        token = int(drawn(text, logits.cpu(), decoding, generator))
        if token in ends:
            break
        written.append(token)
        step = [token]
        said = policy.tokenizer.decode(written, skip_special_tokens=True)
        if said.startswith(shown) and not said.endswith(UNFINISHED):
            yield said[len(shown) :]
            shown = said
    else:
        return False
    yield policy.tokenizer.decode(written, skip_special_tokens=True)[len(shown) :]
    return True


def room(policy: Handle, ids: list[int], wanted: int) -> int:
    """How many tokens a response to a prompt may have, at most `wanted`. Raises DataError where there is none."""
    if not ids:
        raise DataError("the prompt has no token")
    most = policy.encoder.max_tokens
    if most is not None and len(ids) >= most:
        raise DataError(f"the prompt has {len(ids)} tokens, and the model takes {most} with the response")
    return wanted if most is None else min(wanted, most - len(ids))
