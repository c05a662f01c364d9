"""An online trainer over the tiny base, made of a recipe's words, for the tests of its parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import set_seed

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.contract.run_kinds import Reward, RewardFunction
from rlhf_plugins.data.batches.groups import prompt_dataset
from rlhf_plugins.data.conversations import Conversations
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer, with_adapter
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.online.trainer import OnlineTrainer
from rlhf_plugins.trainers.ppo.config import OnlineConfig
from rlhf_plugins.trainers.ppo.options import Objective, Oversight, Value
from rlhf_plugins.trainers.ppo.rollout import Experience, Scored

from . import by_hand

Bases = Callable[..., Base]
OPTIONS: dict[str, Any] = {
    "max_steps": 6,
    "per_device_train_batch_size": 6,
    "num_generations": 3,
    "steps_per_generation": 2,
    "max_completion_length": 6,
    "logging_steps": 1,
    "learning_rate": 1e-2,
    "disable_tqdm": True,
    "disable_dropout": True,
}
PARTS: dict[str, Any] = {
    "advantage": {"use": "gae", "gamma": by_hand.GAMMA, "lam": by_hand.LAM},
    "policy_loss": {"use": "clip", "epsilon": by_hand.CLIP},
    "reduction": "tokens",
    "kl": {"use": "in_reward", "coef": by_hand.KL},
}
NUMBERS: dict[str, Any] = {"value": Value(by_hand.VALUE, by_hand.VALUE_CLIP), "entropy_coef": by_hand.ENTROPY}
TURNS = ("environment", "turns", "turn_discount")  # the fields of Turns as keywords of the trainer
FREE = {"kl": {"use": "in_reward", "coef": 0.0}, "shaping": []}  # nothing but the reward


def prompts(count: int = 12) -> Dataset:
    return prompt_dataset(tiny_pairs(count))


def ants(samples: Samples) -> list[float]:
    return [float(text.split().count("ant")) for text in samples.responses]


class Plain(Reward):
    """A function as a reward."""

    def __init__(self, score: RewardFunction) -> None:
        self.score = score

    def build(self, run: Any) -> RewardFunction:
        return self.score


def plain(score: RewardFunction) -> Any:
    """A function as what a reward builds: it answers a Prediction."""
    return Plain(score).build(None)


def objective(score: RewardFunction = ants, **changes: Any) -> Objective:
    """Components as a recipe names them, or as objects; numbers as they are."""
    made = {kind: changes.pop(kind, words) for kind, words in PARTS.items()}
    parts = {k: component(k, words) if isinstance(words, str | dict) else words for k, words in made.items()}
    shaping = changes.pop("shaping", [{"use": "missing_eos", "penalty": by_hand.MISSING_EOS}])
    shapes = [component("shaping", words) for words in shaping]
    built = [shape.acting() for shape in shapes]
    return Objective(plain(score), **parts, shaping=built, **{**NUMBERS, **changes})


def trainer(base: Base, folder: Path, aim: Objective | None = None, **options: Any) -> OnlineTrainer:
    """Options are TRL's, and `adapter`, `cls`, `oversight`, `tokens_per_batch`."""
    own = {"tokens_per_batch": options.pop("tokens_per_batch", None)}
    own |= {"oversight": options.pop("oversight")} if "oversight" in options else {"oversight": Oversight()}
    adapter, cls = Adapter(r=4) if options.pop("adapter", True) else None, options.pop("cls", OnlineTrainer)
    aim = aim or objective()
    set_seed(0)  # as a run does before a stage
    made: OnlineTrainer = cls(
        with_adapter(load_causal(base), adapter, "CAUSAL_LM"),
        args=arguments(OnlineConfig, folder, 0, {"entropy_coef": aim.entropy_coef, **OPTIONS, **options}),
        train_dataset=prompts(),
        processing_class=load_tokenizer(base),
        reference=None if adapter else load_causal(base),
        **words(aim),
        **own,
    )
    return made


def words(aim: Objective) -> dict[str, Any]:
    """An objective as the keywords of the trainer, which the stage gives it too."""
    same = ("advantage", "policy_loss", "reduction", "kl", "shaping", "stop_kl", "exploration", "fallback")
    turns = aim.turns
    return {
        **{name: getattr(aim, name) for name in same},
        **({} if turns is None else dict(zip(TURNS, vars(turns).values(), strict=True))),
        "reward": aim.score,
        "value": aim.value if aim.advantage.reads_values else None,
        "abstained": "drop" if aim.abstains else "stop",
        "equal_groups": "resample" if aim.resamples else "keep" if aim.keeps_equal else "drop",
        "truncated": "keep" if aim.keeps_truncated else "drop",
        "keep_groups": True,
        "skip_equal": True,
    }


def samples_of(found: OnlineTrainer, prompts: list[Any]) -> Samples:
    """What a trainer samples for prompts."""
    return found._rollouts.sample(found, prompts, {})


def scored(found: OnlineTrainer, prompts: list[Any]) -> Scored:
    """What a trainer samples for prompts, and scores."""
    return scores_of(found, samples_of(found, prompts))


def scores_of(found: OnlineTrainer, samples: Samples) -> Scored:
    """Single responses as a trainer scores them."""
    return found._rollouts.score(Conversations.of_one_turn(samples), found._rollouts.greedy(found, samples))


def rolled_out(found: OnlineTrainer, prompts: list[Any], kl_coef: float = 0.1) -> Experience:
    """A rollout of a trainer."""
    return found._rollouts.experience(scored(found, prompts), kl_coef)


def logged(found: OnlineTrainer, name: str) -> list[float]:
    """What a finished training logged under a name."""
    return [entry[name] for entry in found.state.log_history if name in entry]


def curve(found: OnlineTrainer, name: str) -> list[float]:
    """Trains, and what it logs under a name."""
    found.train()
    return logged(found, name)
