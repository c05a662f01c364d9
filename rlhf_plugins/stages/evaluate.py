"""The stage `evaluate`: measures every policy and the reward model of a run on held-out prompts and pairs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlhf_plugins.contract.component import Earlier, uses
from rlhf_plugins.contract.handles import Policy
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Metric
from rlhf_plugins.contract.rows import Group, Samples, Text
from rlhf_plugins.contract.run import Evaluation, ReportParts, Run, StageResult
from rlhf_plugins.contract.run_kinds import DataFormat, Stage
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.evaluate.policies import Judge, Judged, Predict
    from rlhf_plugins.evaluate.statistics import Interval

logger = logging.getLogger(__name__)
SHOWN = 8  # prompts whose responses the report shows side by side


@dataclass(frozen=True)
class Evaluate(Stage, makes={"evaluation"}, judges=True):
    """Scores one response of each policy to each held-out prompt against one that they are all compared with.

    The judge is the gold reward where the data has one, else the reward model, which then judges policies that may
    have been trained against it; the report names the judge.
    """

    prompts: Annotated[int, Field(ge=2, description="held-out prompts of each kind")] = 256
    best_of: Annotated[int, Field(ge=1, description="n of best-of-n against the reward model")] = 16
    ceiling: Annotated[int, Field(ge=2, description="n of best-of-n by gold, the 100 of the normalised score")] = 64
    max_new_tokens: Annotated[int, Field(ge=1, description="where a response is cut")] = 64
    temperature: Annotated[float, Field(ge=0, description="of sampling; 0 decodes greedily")] = 1.0
    metrics: tuple[Metric, ...] = uses("metric", ["accuracy", "calibration", "auc", "rank_correlation", "length_bias"])
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    reference: Annotated[
        Annotated[str, Field(description="what scores and KL are compared with: `base`, or an earlier policy")],
        Earlier("policy", ("base",)),
    ] = "base"
    name: str = "evaluate"

    def run(self, run: Run) -> StageResult:
        """Leaves nothing but its result: an evaluation, and parts of the report."""
        from rlhf_plugins.reward_models.opening import latest_reward

        return _Session(self, run, latest_reward(run)).result()


class _Session:
    """One evaluation: what it judges with, and the reference's responses that everything is measured against."""

    def __init__(self, options: Evaluate, run: Run, reward: Predict | None) -> None:
        from rlhf_plugins.data.tokenized import prompts_with_room
        from rlhf_plugins.engine.loading import load_row_encoder
        from rlhf_plugins.evaluate.policies import Judge

        if reward is None and run.data.gold is None:
            raise RunError("evaluate: no earlier stage made a reward model, and these prompts have no gold reward")
        self.options, self.run, self.reward = options, run, reward
        self.judge: Judge = Judge(run.data.gold, reward)
        encoder = load_row_encoder(run.base)
        self.tokenizer, self.reference = encoder.tokenizer, run.reference()
        self.weights = run.weights("reference")
        self.asked, self.unread = prompts_with_room(
            run.data.prompts["test"][: options.prompts], encoder, options.max_new_tokens
        )
        self.prompts = [group.prompt for group in self.asked]
        strange = run.data.prompts.get("out_of_distribution", ())[: options.prompts]
        self.strange, _ = prompts_with_room(strange, encoder, options.max_new_tokens)
        if len(self.prompts) < 2:
            raise RunError("evaluate: fewer than two held-out prompts")
        # the first response is the reference's own; best-of-n chooses among the others, so that the two are independent
        self.pool_size = max(options.ceiling if run.data.gold else 1, options.best_of + 1 if self.chooses else 1)
        self.pool = self.sample(self.reference, self.asked, self.pool_size)

    @property
    def chooses(self) -> bool:
        """Whether best-of-n can be measured: there is a reward model, and sampling is random."""
        return self.reward is not None and self.options.best_of > 1 and self.options.temperature > 0

    def result(self) -> StageResult:
        """Everything measured."""
        from rlhf_plugins.evaluate.policies import best_of, measure

        scores = self.judge.scores(self.pool)
        ceiling = (
            float(scores[best_of(scores, self.pool_size, range(self.options.ceiling))].mean())
            if self.judge.gold
            else None
        )
        judged: dict[str, Judged] = {}
        for name, policy in self.policies():
            if name in judged:
                raise RunError(f"evaluate: two policies are called {name}; give the stage another `name:`")
            judged[name] = policy
        reference = judged[self.weights.name]
        rows = {
            name: measure(policy, reference, ceiling, self.judge.worths(policy.samples))
            for name, policy in judged.items()
        }
        of_judge, left_out = self.reward_model()
        scores_by_name = {name: policy.scores.tolist() for name, policy in judged.items()}
        return StageResult(
            evaluation=Evaluation(self.judge.name, self.weights.name, list(self.prompts), scores_by_name),
            report=ReportParts(
                policies=rows,
                ceiling=None if ceiling is None else {"n": self.options.ceiling, "gold": ceiling},
                judge=self.judged_by(),
                reward_model=of_judge,
                samples=self.side_by_side(judged),
                left_out={**self.unread, **left_out},
                notes=self.notes(),
            ),
        )

    def policies(self) -> Iterator[tuple[str, Judged]]:
        """Each policy's judged samples: the reference, best-of-n of it, then what the run trained, in its order."""
        from rlhf_plugins.evaluate.policies import Judge, best_of, best_of_kl

        first = [row * self.pool_size for row in range(len(self.prompts))]
        yield self.weights.name, self.judged(first, self.pool, 0.0, self.reference)
        if self.chooses:
            n = self.options.best_of
            rewards = Judge(None, self.reward).scores(self.pool)
            yield (
                f"best-of-{n}",
                self.judged(best_of(rewards, self.pool_size, range(1, n + 1)), self.pool, best_of_kl(n), None),
            )
        own = str(self.weights.folder or self.weights.base.path)
        for result in self.run.finished:
            for name, spec in result.policies.items():
                if spec.get("path") != own:
                    logger.info("evaluating %s", name)
                    yield name, self.trained(self.run.policy(name))

    def trained(self, policy: Policy) -> Judged:
        """A trained policy's own samples, with its KL to the reference."""
        from rlhf_plugins.evaluate.policies import sequence_kls
        from rlhf_plugins.evaluate.statistics import mean_interval

        samples = self.sample(policy, self.asked, 1)
        temperature, kl = self.options.temperature, None
        if temperature > 0:
            kl = mean_interval(sequence_kls(policy, self.reference, samples, temperature))
        return self.judged(list(range(len(self.prompts))), samples, kl, policy)

    def judged(self, rows: list[int], samples: Samples, kl: float | Interval | None, policy: Policy | None) -> Judged:
        """Some of the samples with their scores and, for a policy that can sample, its out-of-distribution scores."""
        from rlhf_plugins.evaluate.policies import Judged

        chosen = samples.take(rows)
        elsewhere = self.judge.scores(self.sample(policy, self.strange, 1)) if policy and self.strange else None
        return Judged(chosen, self.judge.scores(chosen), kl, elsewhere, line=policy is None)

    def sample(self, policy: Policy, prompts: Sequence[Group], per_prompt: int) -> Samples:
        """Responses under the stage's options; the same prompts and policy always give the same."""
        return policy.sample(
            prompts,
            per_prompt,
            temperature=self.options.temperature,
            max_new_tokens=self.options.max_new_tokens,
            seed=self.run.seed,
        )

    def notes(self) -> list[str]:
        """Notes for the reader of the table."""
        rewards = [result for result in self.run.finished if result.rewards]
        judge = (
            [] if self.judge.gold else ["The judge is the run's own reward model: it favours what was trained on it."]
        )
        return judge + [
            "Seconds are those of a policy's own stage; one trained with the reward model also needs the "
            f"{result.cost.seconds:.0f} s of {result.name}."
            for result in rewards[-1:]
        ]

    def judged_by(self) -> dict[str, str]:
        """What scores the responses, as `report.schema.JudgeReport` has it."""
        if self.judge.gold:
            return {"kind": "gold"}
        return {"kind": "reward model", "stage": [result.name for result in self.run.finished if result.rewards][-1]}

    def reward_model(self) -> tuple[dict[str, Any] | None, dict[str, int]]:
        """The row of the judge, if it is a reward model and pairs are held out; and which pairs it cannot read."""
        from rlhf_plugins.data.ranked import encodable
        from rlhf_plugins.engine.loading import load_row_encoder
        from rlhf_plugins.evaluate.reward_models import measure, score_pairs, strict

        test, left_out = encodable(self.run.data.test, load_row_encoder(self.run.base))
        if self.reward is None or not strict(test):
            return None, {}
        scored = score_pairs(self.reward, test, self.tokenizer)
        counted = {f"held out, {reason}": count for reason, count in left_out.items()}
        return measure(scored, self.options.metrics), counted

    def side_by_side(self, judged: dict[str, Judged]) -> list[dict[str, Any]]:
        """The first prompts with every policy's response and score."""
        return [
            {
                "prompt": _plain(self.prompts[row]),
                "responses": {
                    name: {"text": policy.samples.responses[row], _score_key(self.judge): float(policy.scores[row])}
                    for name, policy in judged.items()
                },
            }
            for row in range(min(SHOWN, len(self.prompts)))
        ]


def _score_key(judge: Judge) -> str:
    return "gold" if judge.gold else "reward"


def _plain(prompt: Text) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"evaluate": Evaluate}
