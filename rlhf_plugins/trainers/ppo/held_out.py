"""What a policy does on held-out prompts while it trains: reward, KL (where it trains with one) and length.

Where it trains in conversations it is measured in conversations, at most so long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.function_logs import listening
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import GoldReward, Samples, Text
from rlhf_plugins.contract.sampling import changed, options_of
from rlhf_plugins.data.batches.branches import BranchBatch, by_prompt
from rlhf_plugins.data.batches.groups import batch_columns, batch_prompts
from rlhf_plugins.data.conversations import Conversations, converse, discounted_returns
from rlhf_plugins.engine.forward import evaluating
from rlhf_plugins.engine.passes import Passes
from rlhf_plugins.engine.sampling import Decoding, sample
from rlhf_plugins.engine.token_budget import tokens_at_once
from rlhf_plugins.engine.weights.shards import gathered
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.handle import rewards
from rlhf_plugins.trainers.online.reward_functions import refuse_taken
from rlhf_plugins.trainers.ppo.models import Models
from rlhf_plugins.trainers.ppo.options import Objective
from rlhf_plugins.trainers.ppo.oversight import parts_of


class HeldOut:
    """An OnlineTrainer that evaluates so; a class's first base. Prompts and seed are the same at every evaluation."""

    gold: GoldReward | None
    task_shares: Callable[[], Mapping[str, float]] = dict  # share by task

    def evaluate(self: Any, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Logs the numbers, and returns them. Raises RunError where the reward abstains on every response."""
        rows = list(self.eval_dataset)
        with evaluating(self.model), torch.no_grad(), gathered(self.model), listening() as heard:
            talks = _talked(self, batch_prompts(rows), batch_columns(rows))
            judge = self._asked.reward
            alone = judge is None or not judge.compares  # else one response to a prompt has no reward
            own = not changed(options_of(self))  # else they are not of the policy's own distribution, whose KL it is
            kl = _kl(talks.samples, self._models) if self._objective.kl and own else {}
            found = {**_scored(talks, self._objective, self.gold, alone), **kl, **self.task_shares()}
            logged = processes.from_main(heard.means())
            refuse_taken(logged.keys() & found.keys(), heard.functions)
            named = {f"{metric_key_prefix}_{name}": value for name, value in {**found, **logged}.items()}
            self.log(named)  # TRL logs the training's numbers apart
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named


def _talked(trainer: Any, prompts: Sequence[Text], columns: Mapping[str, list[Any]]) -> Conversations:
    """A response to each prompt, and the later turns of its conversation."""
    decoding = Decoding(trainer.max_completion_length, trainer.temperature, trainer.args.seed, **options_of(trainer))

    def respond(asked: Sequence[Text], own: Mapping[str, list[Any]]) -> Samples:
        return replace(sample(trainer.model, trainer.prompt_tokens.tokenizer, asked, decoding=decoding), columns=own)

    first, turns = respond(prompts, columns), trainer._objective.turns
    if turns is None:
        return Conversations.of_one_turn(first)
    return converse(first, respond, turns.environment, turns.most, trainer.has_room)


def _scored(talks: Conversations, aim: Objective, gold: GoldReward | None, alone: bool) -> Mapping[str, float]:
    samples, prediction = talks.samples, aim.score(talks.samples) if alone else None
    found_rewards = [] if prediction is None else rewards(prediction)
    known = [reward for reward in found_rewards if reward is not None]
    if alone and not known:
        raise RunError("eval_strategy: the reward abstained on every held-out response")
    found = {"reward": float(np.mean(known))} if alone else {}
    found |= {} if prediction is None else _parts(prediction)
    found["length"] = float(np.mean([len(ids) for ids in samples.response_ids]))
    if aim.turns is not None:
        returns = discounted_returns(found_rewards, talks.following(), aim.turns.discount)
        whole = [each for each, turn in zip(returns, talks.turn, strict=True) if turn == 0 and each is not None]
        found |= {"turns": len(talks.turn) / talks.count, **({"return": float(np.mean(whole))} if whole else {})}
    if gold is not None:
        both = zip(samples.prompts, samples.responses, strict=True)
        found["gold_reward"] = float(np.mean([gold(str(prompt), response)["total"] for prompt, response in both]))
    return found


def _parts(prediction: Prediction) -> Mapping[str, float]:
    """The parts of the reward, over the responses that have one."""
    heard = slice(None) if prediction.abstained is None else ~prediction.abstained
    return parts_of({name: values[heard] for name, values in prediction.dimensions.items()})


def _kl(samples: Samples, models: Models) -> Mapping[str, float]:
    """The mean over responses of their summed log-ratio to the reference, in nats."""

    def summed(batch: BranchBatch, _: slice) -> float:
        own, other = models.outputs(batch).log_probs, models.reference_log_probs(batch)
        return float((own - other).masked_fill(~batch.response_mask(), 0.0).sum())

    groups = by_prompt(samples.prompt_ids, samples.response_ids)
    passes = Passes(models.policy, models.layout(), models.pad_id, tokens_at_once())
    return {"kl": sum(ratios for _, ratios in passes.over(groups, summed)) / len(samples.responses)}
