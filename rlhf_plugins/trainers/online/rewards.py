"""Rewards in TRL's form as ours, and ours in TRL's form."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run_kinds import Reward
from rlhf_plugins.data.batches.groups import COLUMNS, batch_columns
from rlhf_plugins.data.turns import as_response
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.handle import RewardHandle, rewards
from rlhf_plugins.trainers.online.reward_functions import dimensions_of

logger = logging.getLogger(__name__)
SILENT = 10  # rollouts in a row without any reward, beyond which a training ends, as `equal_rewards` ends a recipe's
TRAINERS = {"trainer_state", "log_extra", "log_metric", "environments"}  # what TRL passes beside columns


class OneReward:
    """A reward, and what it answered last."""

    def __init__(self, reward: RewardHandle) -> None:
        self.reward = reward
        self.each = torch.zeros(0, 1)  # (B, 1) NaN where it abstained

    def __call__(self, samples: Samples) -> Prediction:
        """The reward's answer."""
        found = self.reward(samples)
        numbers = [float("nan") if number is None else number for number in rewards(found)]
        self.each = torch.tensor(numbers).unsqueeze(1)
        return found

    def take_extra(self) -> dict[str, list[Any]]:
        """None: what functions log of responses is heard elsewhere."""
        return {}


class RewardFunctions:
    """TRL's reward functions and models as a reward: the sum with `reward_weights` of those that answer.

    Args:
        trainer: GRPOTrainer, which calls them.

    Raises:
        RunError: when called, a reward is infinite, or no response of many rollouts in a row got one.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer, self.reward = trainer, None
        self.each = torch.zeros(0, 0)  # (B, F) what each answered last, NaN where it did not
        self._silent, self._warned = 0, False  # rollouts in a row without any reward
        self._extra: dict[str, list[Any]] = {}  # what was logged of each response since it was last taken, by column
        self._rows = 0  # how many responses these are

    def __call__(self, samples: Samples) -> Prediction:
        """It abstains where none of them answers."""
        rows = [{"prompt": prompt} for prompt in samples.prompts]
        for name, values in samples.columns.items():
            for row, value in zip(rows, values, strict=True):
                row[name] = value
        ids = [list(response) for response in samples.response_ids]
        found = self._trainer._calculate_rewards(rows, list(samples.prompts), completions(samples), ids)
        self.each = found.float().cpu()
        self._keep_extra(len(ids))
        self._refuse_infinite(samples)
        self._watch(self.each.isnan().all(1).tolist())
        reward = (self.each * self._trainer.reward_weights.cpu()).nansum(1)
        parts = dimensions_of(self._trainer.reward_funcs, self._trainer.reward_func_names, self.each)
        return Prediction(reward, dimensions=parts, abstained=self.each.isnan().all(1))

    def take_extra(self) -> dict[str, list[Any]]:
        """What functions logged of each response since this was last asked, by column, None where they did not."""
        found, self._extra, self._rows = self._extra, {}, 0
        return found

    def _keep_extra(self, count: int) -> None:
        """Takes the columns that functions logged of so many responses."""
        pending: dict[str, list[Any]] = self._trainer._pending_extra_logs
        for name in {**self._extra, **pending}:
            values = pending.pop(name, [None] * count)
            if len(values) != count:
                shown = f"{len(values)} value{'s' * (len(values) != 1)}"
                raise RunError(f"reward_funcs: log_extra: {name!r} has {shown} for {count} responses")
            self._extra.setdefault(name, [None] * self._rows).extend(values)
        self._rows += count

    def _refuse_infinite(self, samples: Samples) -> None:
        for row, which in self.each.isinf().nonzero().tolist()[:1]:
            gave = f"gave {self.each[row, which].item()} for the response {samples.responses[row]!r}"
            name = self._trainer.reward_func_names[which]
            raise RunError(f"reward_funcs: {name} {gave}: a reward is a finite number, or None where there is none")

    def _watch(self, silent: Sequence[bool]) -> None:
        """Says once that responses have no reward, and ends a training that learns nothing."""
        names = ", ".join(self._trainer.reward_func_names)
        if any(silent) and not self._warned:
            self._warned = True
            logger.warning(
                "reward_funcs: %d of %d responses of a rollout are left out, since %s gave no number (None or NaN) for "
                "them; `abstained` counts such responses",
                *(sum(silent), len(silent), names),
            )
        self._silent = self._silent + 1 if all(silent) else 0
        if self._silent > SILENT:
            raise RunError(
                f"reward_funcs: {names} gave no number (None or NaN) for any response of {self._silent} rollouts in a "
                "row: nothing can be learned; look at the reward"
            )


class ForTRL:
    """A reward of ours in the form of TRL's reward functions, for evaluation.

    Args:
        reward: what is asked.
        name: the name of its metrics.
        prompt_ids: gives the prompts' tokens of the batch.
    """

    def __init__(self, reward: RewardHandle, name: str, prompt_ids: Callable[[], Sequence[Any]]) -> None:
        self.reward, self.__name__, self._prompt_ids = reward, name, prompt_ids

    def __call__(self, prompts: Any, completions: Any, completion_ids: Any, **named: Any) -> list[float | None]:
        """A number for each completion, None where it abstains."""
        texts = [each if isinstance(each, str) else each[0]["content"] for each in completions]
        columns = {name: values for name, values in named.items() if name not in TRAINERS}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        samples = Samples(prompts, texts, self._prompt_ids(), completion_ids, columns_of(rows))
        return rewards(self.reward(samples))


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The columns of prompts beside `prompt`: a script's as they are, a recipe's read from their one column."""
    if rows and COLUMNS in rows[0]:
        return batch_columns(rows)
    names = [name for name in (rows[0] if rows else ()) if name not in ("prompt", "completion", "completion_ids")]
    return {name: [row[name] for row in rows] for name in names}


def completions(samples: Samples) -> list[Any]:
    """Responses as TRL has them: to messages, a list with one message."""
    return list(map(as_response, samples.prompts, samples.responses))


def name_of(reward: Any) -> str:
    """How metrics call a reward."""
    if isinstance(reward, RewardHandle):
        return "reward"
    return type(reward).__name__.lower() if isinstance(reward, Reward) else getattr(reward, "__name__", "reward")
