"""Which loop generates: ours over a static cache, ours for CPUs, or transformers'."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig
from transformers.generation import GenerationMode

from rlhf_plugins.engine import DECODING, STATIC_CACHE
from rlhf_plugins.engine.forward import inner_of

if TYPE_CHECKING:
    from rlhf_plugins.engine.static.loop import StaticLoop

AT_ONCE = 512  # responses that are generated at once, at most


class Loop:
    """Generates for a model within a block; the memory that it holds meanwhile is free once nothing holds the loop.

    Args:
        rows: at once, at most.
    """

    def __init__(self, rows: int = AT_ONCE) -> None:
        self._rows = rows
        self.over_slots: StaticLoop | None = None  # once it was asked for

    def options(self, model: Any, config: GenerationConfig | None = None) -> dict[str, Any]:
        """What `model.generate` takes besides, so that a loop of ours generates where it can."""
        from rlhf_plugins.engine.cpu.decoding import decode

        if config is not None and not _supported(config):
            return {}
        if STATIC_CACHE.active(model) and self._takes(model, config):
            return {"custom_generate": self._static().generate}
        return {"custom_generate": decode} if DECODING.active(model) else {}

    def refills(self, model: Any, config: GenerationConfig | None = None) -> bool:
        """Whether rows wait for room within one call, so that the caller need not cut them; it tries the model.

        Of several processes each cuts its rows, so that all make as many calls.
        """
        from rlhf_plugins.contract import processes
        from rlhf_plugins.engine.static.trial import is_ready

        if config is not None and not _supported(config):
            return False
        if processes.count() > 1 or not STATIC_CACHE.active(model) or not self._takes(model, config):
            return False
        return is_ready(inner_of(model))

    def _static(self) -> StaticLoop:
        from rlhf_plugins.engine.static.loop import StaticLoop

        self.over_slots = self.over_slots or StaticLoop(self._rows)
        return self.over_slots

    def _takes(self, model: Any, config: GenerationConfig | None) -> bool:
        from rlhf_plugins.engine.static.request import unsupported_options
        from rlhf_plugins.engine.static.trial import say

        prompted = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
        reason = "its adapter adds tokens" if prompted else config and unsupported_options(config)
        if reason:
            say(inner_of(model), reason)
        return not reason


@contextmanager
def own_decoding_loop(model: Any) -> Iterator[Loop]:
    """For the block, `model.generate` runs a loop of ours to sample or to decode greedily, where one is active."""
    own, before, loop = model.generate, vars(model).get("generate"), Loop()  # which FSDP sets

    def generate(*args: Any, generation_config: GenerationConfig, **options: Any) -> Any:
        options |= loop.options(model, generation_config)
        return own(*args, generation_config=generation_config, **options)

    model.generate = generate
    try:
        yield loop
    finally:
        del model.generate
        if before is not None:
            model.generate = before


def _supported(config: GenerationConfig) -> bool:
    simple = config.get_generation_mode() in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH)
    return simple and not config.prefill_chunk_size and not config.return_dict_in_generate
