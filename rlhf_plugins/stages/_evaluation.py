"""One evaluation of a run's policies: what the stage `evaluate` does once it has its options."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rlhf_plugins.arithmetic.intervals import Interval, mean_interval
from rlhf_plugins.contract.handles import Policy
from rlhf_plugins.contract.rows import Group, Samples
from rlhf_plugins.contract.run import Evaluation, ReportParts, Run, StageResult
from rlhf_plugins.contract.sampling import changed, options_of
from rlhf_plugins.data.batches.groups import best_response
from rlhf_plugins.data.batches.ranked import encodable
from rlhf_plugins.data.batches.tokenized import prompts_with_room
from rlhf_plugins.data.batches.tokens import samples_of
from rlhf_plugins.data.turns import as_text
from rlhf_plugins.engine.backbone import shared
from rlhf_plugins.engine.progress import Counted
from rlhf_plugins.engine.weights.loading import load_row_encoder
from rlhf_plugins.errors import RunError
from rlhf_plugins.evaluate.judges import LIKELIHOOD, PairJudge, ScoreJudge, log_likelihoods, perplexity
from rlhf_plugins.evaluate.policies import (
    Judged,
    best_of,
    best_of_kl,
    by_prompt,
    complete,
    cut_share,
    measure,
    sequence_kls,
)
from rlhf_plugins.report.words import called
from rlhf_plugins.reward_models.handle import reward_handle
from rlhf_plugins.stages._base_measured import name_of_base, open_base, sentences
from rlhf_plugins.stages._reward_parts import part_sections
from rlhf_plugins.stages._tasks import Tasks

if TYPE_CHECKING:
    from rlhf_plugins.contract.run_kinds import JudgeFunction, Reward
    from rlhf_plugins.data.batches.tokens import RowEncoder
    from rlhf_plugins.engine.policy import Handle
    from rlhf_plugins.reward_models.handle import RewardHandle
    from rlhf_plugins.stages.evaluate import Evaluate

logger = logging.getLogger(__name__)
SHOWN = 8  # prompts whose responses the report shows side by side
ROOM = "max_new_tokens"  # the option for the tokens of a response
OTHERS = 1_000_003  # added to the seed for best-of-n and the ceiling
NOTHING = (
    "evaluate: there is nothing to judge by: no reward model of an earlier stage, no gold reward, and no held-out "
    "answer; give it `reward:` or `judge:`"
)


def askable(options: Evaluate, prompts: Sequence[Group], encoder: RowEncoder) -> tuple[list[Group], dict[str, int]]:
    """The prompts that are asked, and the number of those that leave no room for a response, by reason.

    Raises:
        DataError: none leaves room.
        RunError: fewer than two do.
    """
    asked, left_out = prompts_with_room(prompts[: options.prompts], encoder, options.max_new_tokens, ROOM)
    if len(asked) < 2:
        raise RunError("evaluate: fewer than two held-out prompts")
    return asked, left_out


def words(judged: Judged) -> list[float]:
    """How many a prompt's responses have, as a mean of each prompt."""
    counts = np.array([len(text.split()) for text in judged.samples.responses], dtype=float)
    return by_prompt(counts, judged.per_prompt).tolist()


class EvaluateRun:
    """One evaluation: what it judges with, and the reference's responses that everything is measured against."""

    def __init__(self, options: Evaluate, run: Run) -> None:
        from rlhf_plugins.reward_models.opening import latest_reward

        run = run.sharing(shared(run.base))  # which the judge and the reward model are adapters of, too
        self.options, self.run, self.reward = options, run, latest_reward(run)
        self.encoder = load_row_encoder(run.base)
        self.judge = self.chosen_judge()
        self.reference, self.weights = run.reference(), run.weights("reference")
        self.start = name_of_base(run, list(self.trained_policies()))
        asked = run.data.prompts["test"] if self.judge else self.answered()
        if not self.judge and not asked:
            raise RunError(NOTHING)
        self.asked, self.unread = askable(options, asked, self.encoder)
        self.prompts = [group.prompt for group in self.asked]
        strange = run.data.prompts.get("out_of_distribution", ())[: options.prompts]
        scored = isinstance(self.judge, ScoreJudge)  # only such a judge needs nothing to compare with
        self.strange, _ = prompts_with_room(strange if scored else (), self.encoder, options.max_new_tokens, ROOM)
        self.answers = self.held_out_answers()
        self.pool_size = max(options.ceiling if self.judged_by_gold else 0, options.best_of if self.chooses else 0)
        self.tasks = Tasks(options.tasks, run)
        self.ends = dict[str, list[int]]()  # of each policy's responses
        self.progress = Counted(options.name, self.responses(), "responses")
        self.own = self.sample(self.reference, self.asked)
        self.pool = (
            self.sample(self.reference, self.asked, self.pool_size, run.seed + OTHERS) if self.pool_size else None
        )

    def responses(self) -> int:
        """How many are sampled in all."""
        trained = sum(1 for _ in self.trained_policies()) + bool(self.start)
        each = len(self.asked) + len(self.strange)
        return len(self.asked) * self.pool_size + (trained + 1) * each * self.options.responses

    def chosen_judge(self) -> ScoreJudge | PairJudge | None:
        """What scores responses; None where held-out answers are all that is known."""
        if self.options.judge is not None:
            name = self.run.spec(self.options.judge)["use"]
            stage = self.own_stage(getattr(self.options.judge, "reward", None))
            return self.of_pairs(self.options.judge.build(self.run), name, stage)
        if self.options.reward is not None:
            handle = reward_handle(self.options.reward.build(self.run))
            return self.by_reward(
                handle, called(self.run.spec(self.options.reward)), self.own_stage(self.options.reward)
            )
        if self.run.data.gold is not None:
            return ScoreJudge(self.run.data.gold, None)
        if self.reward is None:
            return None
        return self.by_reward(self.reward, "", [result.name for result in self.run.finished if result.rewards][-1])

    def by_reward(self, reward: RewardHandle, name: str, stage: str) -> ScoreJudge | PairJudge:
        """A judge that scores each response, or, by a reward that compares, each beside the reference's."""
        from rlhf_plugins.reward_models.judging import judge_by

        if not reward.compares:
            return ScoreJudge(None, reward, name, stage, not name or reward.module is not None)
        encode = self.run.reference().encode if reward.encoder is None else reward.encode
        return self.of_pairs(judge_by(reward, encode), name or reward.compares, stage, reward)

    def of_pairs(self, ask: JudgeFunction, name: str, stage: str, reward: RewardHandle | None = None) -> PairJudge:
        """A judge that compares each response with the reference's."""
        return PairJudge(ask, self.run.weights("reference").name, self.run.once, name, stage, reward)

    def own_stage(self, reward: Reward | None) -> str:
        """The stage of this run that trained a reward; empty where none did."""
        words = {} if reward is None else self.run.spec(reward)
        if words.get("use") != "model":
            return ""
        made = {result.name: result.rewards for result in self.run.finished if result.rewards}
        wanted = words.get("stage")
        known = {name: {name, *rewards, *(f"{name}/{one}" for one in rewards)} for name, rewards in made.items()}
        return next(name for name in reversed(known) if wanted is None or wanted in known[name])

    def answered(self) -> list[Group]:
        """The held-out groups with an answer that the model can read, each with that alone; one a prompt."""
        pairs = ((group, best_response(group)) for group in self.run.data.test)
        found = {str(g.prompt): Group(g.prompt, (best,), columns=g.columns) for g, best in pairs if best is not None}
        return encodable(found.values(), self.encoder)[0]

    def held_out_answers(self) -> Samples | None:
        """Answers to held-out prompts, whose perplexity is measured; None where there are none."""
        groups = self.asked if self.judge is None else self.answered()[: self.options.prompts]
        return samples_of(groups, self.encoder) if groups else None

    @property
    def judged_by_gold(self) -> bool:
        """Whether the true reward judges, so that a ceiling can be measured."""
        return isinstance(self.judge, ScoreJudge) and self.judge.gold is not None

    @property
    def chooses(self) -> bool:
        """Whether best-of-n can be measured: there is a reward model, and sampling is random."""
        return self.reward is not None and self.options.best_of > 1 and self.options.temperature > 0

    @property
    def reshaped(self) -> dict[str, float]:
        """The options under which responses are of another distribution than a policy's own at the temperature."""
        return changed(options_of(self.options))

    def result(self) -> StageResult:
        """Everything measured."""
        ceiling = None
        if isinstance(self.judge, ScoreJudge) and self.judge.gold is not None and self.pool:
            scores = self.judge.scores(self.pool)
            ceiling = float(scores[best_of(scores, self.pool_size, self.options.ceiling)].mean())
        judged: dict[str, Judged] = {}
        for name, policy in self.policies():
            if name in judged:
                raise RunError(f"evaluate: two policies are called {name}; give the stage another `name:`")
            judged[name] = policy
        self.progress.close()
        judged, places = complete(judged)
        unscored = {"prompt without a score for each policy": len(self.prompts) - len(places)}
        reference = judged[self.weights.name]
        worths = self.judge.worths if isinstance(self.judge, ScoreJudge) else (lambda samples: [])
        rows = {
            name: measure(policy, reference, ceiling, worths(policy.samples)) | {"cut": self.cut(name, policy.samples)}
            for name, policy in judged.items()
        }
        of_judge, left_out = self.reward_model()
        scores_by_name = {name: policy.means.tolist() for name, policy in judged.items()}
        return StageResult(
            evaluation=Evaluation(
                self.judge.name if self.judge else LIKELIHOOD,
                self.weights.name,
                [self.prompts[place] for place in places],
                scores_by_name,
                {name: words(policy) for name, policy in judged.items()},
            ),
            report=ReportParts(
                policies=rows,
                ceiling=None if ceiling is None else {"n": self.options.ceiling, "gold": ceiling},
                judge=self.judge.described() if self.judge else {"kind": "loss", "name": LIKELIHOOD},
                reward_model=of_judge,
                samples=self.side_by_side(judged),
                left_out={**self.unread, **left_out, **unscored},
                notes=self.notes(),
            ),
            sections=[*part_sections(rows, self.weights.name), *self.tasks.sections(self.weights.name)],
            metrics=self.tasks.metrics(),
        )

    def policies(self) -> Iterator[tuple[str, Judged]]:
        """Each policy's judged samples: the reference, best-of-n of it, then what the run trained, in its order."""
        yield self.weights.name, self.judged(self.weights.name, self.own, 0.0, self.reference)
        if self.chooses and self.pool:
            n = self.options.best_of
            first = self.pool.take(row for row in range(len(self.pool.responses)) if row % self.pool_size < n)
            best = best_of(ScoreJudge(None, self.reward).scores(first), n, n)
            name = f"best-of-{n}"
            yield name, self.judged(name, first.take(best), best_of_kl(n), None)
        if self.start:
            yield self.start, self.trained(self.start, open_base(self.run))
        for name in self.trained_policies():
            logger.info("evaluating %s", name)
            yield name, self.trained(name, self.run.policy(name))

    def trained_policies(self) -> Iterator[str]:
        """The names of those that the run made, but for the reference."""
        own = str(self.weights.folder or self.weights.base.path)
        for result in self.run.finished:
            yield from (name for name, spec in result.policies.items() if spec.get("path") != own)

    def trained(self, name: str, policy: Policy) -> Judged:
        """A trained policy's own samples, with its KL to the reference; unknown where these end at other tokens."""
        samples = self.sample(policy, self.asked)
        temperature, kl = self.options.temperature, None
        if temperature > 0 and not self.reshaped and not self.ends_otherwise(policy):
            kls = sequence_kls(policy, self.reference, samples, temperature)
            kl = mean_interval(by_prompt(kls, self.options.responses))
        return self.judged(name, samples, kl, policy)

    def ends_otherwise(self, policy: Policy) -> bool:
        """Whether a policy ends its responses at other tokens than the reference, which goes on where it stops."""
        return cast("Handle", policy).ends != cast("Handle", self.reference).ends

    def judged(self, name: str, samples: Samples, kl: float | Interval | None, policy: Policy | None) -> Judged:
        """Samples with scores; of a policy that can sample, also on prompts out of distribution."""
        per_prompt = len(samples.responses) // len(self.asked)
        self.ends[name] = cast("Handle", policy or self.reference).ends
        if policy is not None:
            self.tasks.measure(name, policy)
        known = log_likelihoods(policy, self.answers) if policy and self.answers else None
        elsewhere, parts = None, dict[str, np.ndarray]()
        if isinstance(self.judge, PairJudge):
            step = self.options.responses // per_prompt  # of best-of-n there is one
            scores = self.judge.compared(name, samples, self.own.take(range(0, len(self.own.responses), step)))
        elif self.judge:
            scores, parts = self.judge.scores_and_parts(samples)
            elsewhere = self.elsewhere(policy) if policy and self.strange else None
        else:
            assert known is not None
            scores = np.repeat(known[0] / known[1], per_prompt)
        surprise = None if known is None else perplexity(*known)
        return Judged(samples, scores, kl, elsewhere, policy is None, surprise, per_prompt, parts)

    def elsewhere(self, policy: Policy) -> np.ndarray:
        """The score of each prompt out of distribution that has one."""
        assert isinstance(self.judge, ScoreJudge)
        found = by_prompt(self.judge.scores(self.sample(policy, self.strange)), self.options.responses)
        return found[np.isfinite(found)]

    def sample(
        self, policy: Policy, prompts: Sequence[Group], per_prompt: int | None = None, seed: int | None = None
    ) -> Samples:
        """Responses under the stage's options; the same prompts and policy always give the same.

        Policies that differ little are drawn with the same random numbers, and so differ little in their responses.
        """
        samples = policy.sample(
            prompts,
            self.options.responses if per_prompt is None else per_prompt,
            temperature=self.options.temperature,
            max_new_tokens=self.options.max_new_tokens,
            seed=self.run.seed if seed is None else seed,
            **options_of(self.options),
        )
        self.progress.add(len(samples.responses))
        return samples

    def cut(self, name: str, samples: Samples) -> float:
        """The share of a policy's responses that were cut at `max_new_tokens`."""
        return cut_share(samples, self.options.max_new_tokens, self.ends[name])

    def notes(self) -> list[str]:
        """Notes for the reader of the table."""
        rewards = [result for result in self.run.finished if result.rewards]

        if self.judge is None:
            judge = ["Nobody judged responses: the scores are the log-likelihoods of held-out answers."]
        else:
            own = "The judge is the run's own reward model: it favours what was trained on it."
            judge = [own] * self.may_be_trained_on()
            judge += self.judge.reasons() if isinstance(self.judge, PairJudge) else []
        return [*judge, *sentences(self.run, self.start), *self.unknown_kls()] + [
            "Seconds are those of a policy's own stage; one trained with the reward model also needs the "
            f"{result.cost.seconds:.0f} s of {result.name}."
            for result in rewards[-1:]
        ]

    def unknown_kls(self) -> list[str]:
        """Which policies have no KL: all, or those that stop where the reference goes on."""
        if self.reshaped:
            how = ", ".join(f"{name} {value:g}" for name, value in self.reshaped.items())
            return [f"No KL is measured: with {how}, responses are not of the policies' own distributions."]
        name = self.weights.name
        others = [other for other, ends in self.ends.items() if ends != self.ends[name]]
        return [
            f"The KL of {each} is unknown: its responses end at other tokens than those of {name}." for each in others
        ]

    def may_be_trained_on(self) -> bool:
        """Whether the run made a policy after the reward model that judges."""
        stage = self.judge.stage if self.judge else ""
        names = [result.name for result in self.run.finished]
        return bool(stage) and any(result.policies for result in self.run.finished[names.index(stage) :])

    def reward_model(self) -> tuple[dict[str, Any] | None, dict[str, int]]:
        """The row of the judge, if it is a reward model and pairs are held out; and which pairs it cannot read."""
        from rlhf_plugins.evaluate.reward_models import measure, score_pairs, strict
        from rlhf_plugins.reward_models.opening import row_encoder_of

        judge = self.judge
        if isinstance(judge, PairJudge) and judge.reward is None:
            return judge.accuracy(self.strict_pairs()), {}
        by_gold = isinstance(judge, ScoreJudge) and judge.gold
        reward = self.reward if judge is None or by_gold else judge.reward
        if reward is None:
            return None, {}
        encoder = row_encoder_of(reward, self.run.base)
        test, left_out = encodable(self.run.data.test, encoder)
        if not strict(test):
            return None, {}
        try:
            scored = score_pairs(reward, test, encoder.tokenizer, lengths=encoder.lengths)
        except RunError:
            if reward.module is not None:
                raise
            return None, {}  # a function that abstains on some pairs
        counted = {f"held out, {reason}": count for reason, count in left_out.items()}
        return measure(scored, self.options.metrics), counted

    def strict_pairs(self) -> list[Group]:
        """Held-out pairs, the preferred response first: as many as there are prompts, since a judge may be paid."""
        from rlhf_plugins.evaluate.reward_models import strict

        pairs = strict(self.run.data.test)[: len(self.prompts)]
        return [Group(group.prompt, (group.responses[c.better], group.responses[c.worse])) for group, c in pairs]

    def side_by_side(self, judged: dict[str, Judged]) -> list[dict[str, Any]]:
        """The first prompts with every policy's first response and its score."""
        one = next(iter(judged.values()))
        asked = one.samples.prompts[:: one.per_prompt]
        return [
            {
                "prompt": as_text(prompt),
                "responses": {
                    name: {"text": policy.samples.responses[first], **self.shown(float(policy.scores[first]))}
                    for name, policy in judged.items()
                    for first in (row * policy.per_prompt,)
                },
            }
            for row, prompt in enumerate(asked[:SHOWN])
        ]

    def shown(self, score: float) -> dict[str, float]:
        """A response's score, by the judge."""
        if self.judge is None:
            return {}
        return {"gold" if isinstance(self.judge, ScoreJudge) and self.judge.gold else "reward": score}
