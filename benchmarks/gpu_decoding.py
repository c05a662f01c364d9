"""How fast tokens are decoded by each loop, once their tokens were compared."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

from gpu_lab import Lab, forget_peaks, peak
from gpu_models import random_model, text

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine import FastPath, pretending
from rlhf_plugins.engine import decoding as loops
from rlhf_plugins.engine.forward import trunk_of
from rlhf_plugins.engine.sampling import Decoding, sample
from rlhf_plugins.engine.static import graph, trial
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer, with_adapter

LOOPS = ("transformers", "static", "graph")
LORA = Adapter(r=16)


def decoding(lab: Lab) -> None:
    """Tokens per second of the base, of an adapter beside it, and on an NF4 base, by three loops.

    Those over a static cache are rehearsed on a CPU too, where no graph can be recorded.
    """
    folder = random_model(lab.scratch / lab.header["shape"], lab.header["shape"], lab.device)
    for name, quantization in (("base", None), ("adapter", None), ("adapter on nf4", "nf4")):
        adapter = LORA if "adapter" in name else None
        base = Base(str(folder), quantization, adapter or LORA)  # frozen, so in the precision that is trained on
        for rows in (4,) if lab.tiny else (16, 64):
            lab.point(f"{name}, {rows} rows", partial(_decoded, lab, base, adapter, rows))


def _decoded(lab: Lab, base: Base, adapter: Adapter | None, rows: int) -> dict[str, Any]:
    """Milliseconds a token by each loop, and how many rows have the tokens of the loop before it.

    Raises:
        ValueError: a graph draws other tokens than the step that it records.
    """
    model, words = with_adapter(load_causal(base), adapter, "CAUSAL_LM"), load_tokenizer(base)
    width, tokens = (8, 4) if lab.tiny else (256, 64)
    prompts = [text(random.Random(row), width) + " " for row in range(rows)]
    found: dict[str, Any] = {}

    def made(temperature: float) -> list[list[int]]:
        options = Decoding(max_new_tokens=tokens, temperature=temperature)
        return [list(ids) for ids in sample(model, words, prompts, 1, options).response_ids]

    drawn: dict[str, list[list[list[int]]]] = {}
    for loop in LOOPS:
        with _only(loop):
            drawn[loop] = [made(0.0)]  # also what a first call does alone
            forget_peaks(lab)
            lab.synchronize()
            began = time.perf_counter()
            drawn[loop].append(made(1.0))
            seconds = time.perf_counter() - began
        count = sum(map(len, drawn[loop][1]))
        numbers = {"tokens_per_second": count / seconds, "ms_per_decoded_token": 1e3 * seconds / tokens, **peak(lab)}
        found |= {f"{loop} {name}": value for name, value in numbers.items()}
    inner = model.get_base_model() if adapter else model
    with _only("static"):
        found["static cache"] = trial.obstacle_of(inner) or "used"
    found["CUDA graph"] = "not used" if trunk_of(inner) in graph._EAGER else "used"
    if drawn["graph"] != drawn["static"]:
        raise ValueError("a graph draws other tokens than the step that it records")
    greedy = zip(drawn["transformers"][0], drawn["static"][0], strict=True)
    return {**found, "rows of equal greedy tokens": sum(one == other for one, other in greedy), "rows": rows}


@contextmanager
def _only(loop: str) -> Iterator[None]:
    """For the block, this loop generates."""
    never = FastPath("switched off", devices=())
    with pretending("cuda"):
        if loop == "graph":
            yield
        elif loop == "static":
            with patch.object(graph, "CUDA_GRAPH", never):
                yield
        else:
            with patch.object(loops, "STATIC_CACHE", never):
                yield
