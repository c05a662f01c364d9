"""One timed training, ours or stock TRL's, in a process of its own: `benchmarks/speed.py` starts it and reads its JSON.

The caller chooses the cases and reports them.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

from rlhf_plugins.contract.rows import Comparison, Group
from rlhf_plugins.data.batches.ranked import ranked_rows
from rlhf_plugins.data.batches.tokens import encode
from rlhf_plugins.engine.weights.loading import with_fast_paths
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.run.memory import PeakMemory
from rlhf_plugins.trainers.arguments import arguments, record_curves
from rlhf_plugins.trainers.preference import reference as preference_reference
from rlhf_plugins.trainers.preference import trainer as preference
from rlhf_plugins.trainers.reward import trainer as reward

MODELS: dict[str, dict[str, int]] = {
    "7M": {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6},
    "42M": {"vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8},
}
HEAD = 64  # width of an attention head
STOCK_LOSS = {"dpo": "sigmoid", "ipo": "ipo"}
OUR_LOSS = {"dpo": "dpo", "ipo": "ipo_per_token"}


@dataclass(frozen=True)
class Case:
    """What is trained: lengths in tokens, a response's EOS included."""

    work: str  # dpo, ipo, reward, or ranking: a reward model on groups of k, the best against each other
    model: str
    prompt: int
    response: int
    k: int = 2
    precision: str = "float32"
    ragged: bool = False  # lengths drawn evenly from half to one and a half times
    batch: int = 8  # groups
    steps: int = 5
    remembered: bool = False  # stock TRL too computes its reference once
    tokens: int | None = None  # most tokens of ours at once

    @property
    def policy(self) -> bool:
        """Whether a policy is trained, with a reference beside it."""
        return self.work in OUR_LOSS

    @cached_property
    def groups(self) -> list[Group]:
        """As many as all steps take."""
        draw, words = random.Random(0), MODELS[self.model]["vocab_size"]

        def text(tokens: int) -> str:
            count = draw.randint(tokens // 2, tokens + tokens // 2) if self.ragged else tokens
            return " ".join(f"w{draw.randrange(3, words)}" for _ in range(max(1, count)))

        def group() -> Group:
            responses = tuple(text(self.response - 1) for _ in range(self.k))
            best = tuple(Comparison(0, other) for other in range(1, self.k))
            return Group(text(self.prompt) + " ", responses, compared=best)

        return [group() for _ in range(self.batch * self.steps)]

    @property
    def pairs(self) -> list[dict[str, str]]:
        """The same judgements in TRL's columns."""
        return [
            {"prompt": str(g.prompt), "chosen": str(g.responses[0]), "rejected": str(other)}
            for g in self.groups
            for other in g.responses[1:]
        ]


class Clock(TrainerCallback):
    """Seconds of every optimizer step, and of a reference that is computed before the first."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.before = 0.0

    @contextmanager
    def reference(self) -> Iterator[None]:
        """While a trainer is built within, the time that its reference takes is noted."""

        def noted(function: Callable[..., Any]) -> Callable[..., Any]:
            def timed(*given: Any) -> Any:
                began = time.perf_counter()
                try:
                    return function(*given)
                finally:
                    self.before += time.perf_counter() - began

            return timed

        with ExitStack() as patched:
            for trainer in (trl.DPOTrainer, preference_reference.ReadsReference):
                own = noted(vars(trainer)["_precompute_ref_logps"])
                patched.enter_context(patch.object(trainer, "_precompute_ref_logps", own))
            yield

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def config(model: str) -> LlamaConfig:
    """A Llama with tied embeddings and as many key heads as heads."""
    sizes, heads = MODELS[model], MODELS[model]["hidden_size"] // HEAD
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    more = {"num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": 2048}
    return LlamaConfig(**sizes, **special, **more, tie_word_embeddings=True)


def tokenizer(words: int) -> PreTrainedTokenizerFast:
    """One that has a token for each word w0, w1, ..."""
    made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(words)}, unk_token="w2"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="w0", eos_token="w1", unk_token="w2")


def options(case: Case) -> dict[str, Any]:
    """TRL's options, the same for both sides."""
    rows = 1 if case.policy else case.k - 1  # of stock TRL, a group
    return {
        "per_device_train_batch_size": case.batch * rows,
        "max_steps": case.steps,
        "logging_steps": 1,
        "learning_rate": 1e-4,
        "bf16": case.precision == "bfloat16",
        "gradient_checkpointing": False,
        "max_length": None,
        "train_sampling_strategy": "sequential",
        "disable_tqdm": True,
    }


def policies(case: Case) -> tuple[LlamaForCausalLM, LlamaForCausalLM | None]:
    """A policy and its reference, alike; where the reference is computed once, the policy before training is it."""
    torch.manual_seed(0)
    policy = LlamaForCausalLM(config(case.model))
    reference = LlamaForCausalLM(config(case.model))
    reference.load_state_dict(policy.state_dict())
    return policy, reference


def stock_policy(case: Case, folder: Path) -> Any:
    policy, reference = policies(case)
    own = {"loss_type": [STOCK_LOSS[case.work]], "precompute_ref_log_probs": case.remembered}
    args = arguments(trl.DPOConfig, folder, 0, {**options(case), **own})
    words = tokenizer(policy.config.vocab_size)
    given = {"train_dataset": Dataset.from_list(case.pairs), "processing_class": words}
    return trl.DPOTrainer(model=policy, ref_model=None if case.remembered else reference, args=args, **given)


def our_policy(case: Case, folder: Path) -> Any:
    policy = with_fast_paths(policies(case)[0].eval())
    args = arguments(trl.DPOConfig, folder, 0, {**options(case), "precompute_ref_log_probs": True})
    loss, words = component("preference_loss", OUR_LOSS[case.work]), tokenizer(policy.config.vocab_size)
    given = {"train_dataset": Dataset.from_list(case.pairs), "processing_class": words, "loss": loss}
    own: dict[str, Any] = {"tokens_per_batch": case.tokens, "reference_cache": folder / "reference.sqlite"}
    return preference.PreferenceTrainer(policy, None, args, **given, **own)


def classifier(case: Case) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    settings = config(case.model)
    settings.num_labels = 1
    return LlamaForSequenceClassification(settings)


def stock_reward(case: Case, folder: Path) -> Any:
    model = classifier(case)
    args = arguments(trl.RewardConfig, folder, 0, options(case))
    words = tokenizer(model.config.vocab_size)
    return trl.RewardTrainer(model, args, train_dataset=Dataset.from_list(case.pairs), processing_class=words)


def our_reward(case: Case, folder: Path) -> Any:
    stock = classifier(case)
    trunk = with_fast_paths(stock.model.eval())
    model = RewardModel(trunk, component("pooling", "last_token"), component("reward_head", "scalar"))
    model.head.load_state_dict(stock.score.state_dict())
    words = tokenizer(stock.config.vocab_size)
    args = arguments(trl.RewardConfig, folder, 0, {**options(case), "per_device_train_batch_size": case.batch})
    rows = ranked_rows(case.groups, lambda p, r: encode(words, p, r), None, lambda group: True)
    own = {"loss": component("reward_loss", "bradley_terry"), "tokens_per_batch": case.tokens}
    return reward.RewardTrainer(model, args, train_dataset=rows, processing_class=words, **own)


MAKERS: dict[tuple[str, bool], Callable[[Case, Path], Any]] = {
    ("stock", True): stock_policy,
    ("ours", True): our_policy,
    ("stock", False): stock_reward,
    ("ours", False): our_reward,
}


def measured(side: str, case: Case) -> dict[str, Any]:
    """Losses and seconds by step, seconds of a reference before them, and the memory of building and training."""
    rate = matmul_rate()
    before = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory() as folder, PeakMemory() as memory:
        clock = Clock()
        with clock.reference():
            trainer = MAKERS[side, case.policy](case, Path(folder))
        curves = record_curves(trainer, lambda _, __: None)
        trainer.add_callback(clock)
        trainer.train()
    losses = [value for _, value in curves.values["loss"]]
    found = {"losses": losses, "seconds": clock.seconds, "reference": clock.before, "rate": rate}
    return {**found, "bytes": memory.bytes - before, "dispatch": dispatch(trainer) if side == "ours" else None}


def dispatch(trainer: Any) -> float:
    """Seconds that a guarded call of the loss component costs more than the bare one, a step."""
    from rlhf_plugins.contract.guards import unchecked
    from rlhf_plugins.contract.records import PairLogps

    loss = getattr(trainer, "_preference_loss", None)
    if loss is None:
        return 0.0
    sums, length = [torch.randn(8, requires_grad=True) for _ in range(4)], torch.full((8,), 64)
    logps = PairLogps.of(sums[0], sums[1], sums[2], sums[3], length, length)
    spent = []
    bare = unchecked(loss)
    for call in (lambda: bare(logps), lambda: loss(logps)):
        began = time.perf_counter()
        for _ in range(200):
            call()
        spent.append((time.perf_counter() - began) / 200)
    return spent[1] - spent[0]


def matmul_rate() -> float:
    """Floating-point operations a second of a large float32 matrix product here and now: the best of five."""
    left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
    spent = []
    for _ in range(6):
        began = time.perf_counter()
        left @ right
        spent.append(time.perf_counter() - began)
    return 2 * 2048**3 / min(spent[1:])


if __name__ == "__main__":
    torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    print(json.dumps(measured(sys.argv[1], Case(**json.loads(sys.argv[2])))))
