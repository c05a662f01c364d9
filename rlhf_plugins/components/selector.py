"""The bundled selector: rules that name what speaks for and against an algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run_kinds import Selector
from rlhf_plugins.contract.selection import Choice, Features, Resources, Situation
from rlhf_plugins.contract.workload import near

OFFLINE, ONLINE = frozenset({"dpo", "ipo"}), frozenset({"ppo", "dpo_then_ppo"})
SEEN_BY = {  # what the rules on noise and strength would like to see, and how data could show it
    "agreement": "how often annotators agree: no pair was judged twice, and the format read no votes",
    "strength": "how strong preferences are: no margins and no ratings",
    "off_policy": "whether responses are the policy's own: it answered no prompts, or fewer than 10",
}


class Point(NamedTuple):
    """What one rule says of one algorithm."""

    algorithm: str
    points: float  # for it, or against it; minus infinity: it cannot do what is asked
    why: str


@dataclass(frozen=True)
class Rules(Selector):
    """Sums the points of rules, which are in each algorithm's reasons; equal sums keep the order dpo, ipo, ppo.

    Few pairs speak for DPO and IPO, noise for IPO, live rewards are possible with PPO alone, compute with a wish to
    adapt speaks for PPO, clean data with little compute for DPO, several stages for DPO and then PPO. Responses that
    the policy would hardly write speak for PPO, which learns from its own (Xu et al. 2024, Tajwar et al. 2024).
    Stability ranks IPO, DPO, PPO; quality PPO, then DPO and IPO. The directions are the usual advice; the weights and
    thresholds are ours. `rlhf bench` measures what following them costs.
    """

    few_pairs: Annotated[int, Field(ge=1, description="fewer are few")] = 10_000
    noisy: Annotated[float, Field(gt=0, lt=0.5, description="share of wrong judgements that is noise")] = 0.15
    contradictory: Annotated[float, Field(gt=0, lt=1, description="share of pairs in circles, as the same sign")] = 0.1
    foreign: Annotated[
        float, Field(gt=0, description="nats a token below the policy's own samples at which rows are off-policy")
    ] = 0.25
    much_time: Annotated[float, Field(gt=0, description="hours from which compute is enough for PPO")] = 4.0
    much_memory: Annotated[
        float, Field(gt=0, description="GB of a GPU from which memory is enough for PPO, where no peak is forecast")
    ] = 12.0

    def __call__(self, situation: Situation) -> list[Choice]:
        """No score is predicted: points are an order, not an expectation."""
        points = list(self.points(situation))
        unseen = [f"not seen: {SEEN_BY[name]}" for name in situation.features.unseen if name in SEEN_BY]
        made = []
        for algorithm in situation.algorithms:
            mine = [point for point in points if point.algorithm == algorithm]
            total = sum(point.points for point in mine)
            reasons = [_reason(point) for point in mine] or ["no rule speaks for or against it"]
            made.append((total, Choice(algorithm, (*reasons, *unseen), possible=total > float("-inf"))))
        order = ["dpo", "ipo", "ppo", "dpo_then_ppo", *situation.algorithms]
        made.sort(key=lambda one: (-one[0], order.index(one[1].algorithm)))
        return [choice for _, choice in made]

    def points(self, situation: Situation) -> Iterator[Point]:
        """Every rule that applies, once per algorithm."""
        features, resources = situation.features, situation.resources
        yield from self._of_data(features, resources)
        yield from self._of_writer(features)
        yield from _of_use(resources)
        yield from self._of_compute(resources)
        yield from self._of_memory(situation)
        yield from _of_priority(resources)

    def is_noisy(self, features: Features) -> str:
        """How noise shows; empty where it does not."""
        if features.noise is not None and _low(features, features.noise) >= self.noisy:
            return f"about {features.noise:.0%} of the judgements are wrong"
        if features.circles is not None and features.circles >= self.contradictory:
            return f"{features.circles:.0%} of the pairs lie in circles"
        if features.contradictions is not None and features.contradictions >= self.contradictory:
            return f"{features.contradictions:.0%} of the pairs are ordered both ways"
        return ""

    def _of_data(self, features: Features, resources: Resources) -> Iterator[Point]:
        if features.pairs < self.few_pairs:
            yield from _each(OFFLINE, 1, f"few pairs: {features.pairs:,}, under {self.few_pairs:,}")
        noise = self.is_noisy(features)
        if noise:
            yield Point("ipo", 2, f"{noise}, and IPO's target is bounded")
            yield Point("dpo", -1, f"{noise}, and DPO's margin grows without bound on wrong pairs")
        elif features.noise is not None and self._little(resources):
            if _high(features, features.noise) < self.noisy:
                yield Point("dpo", 2, f"clean judgements ({features.noise:.0%} wrong) and little compute")
            else:
                between = f"{features.noise_low:.0%} to {features.noise_high:.0%} of the judgements are wrong"
                few = f"by {features.judged_again} pairs that were judged again {between}"
                yield Point("dpo", 0, f"{few}: too few to call them clean or noisy")

    def _of_writer(self, features: Features) -> Iterator[Point]:
        """Points for whose responses the rows hold, where the whole interval says so."""
        if features.off_policy is None:
            return
        low = features.off_policy if features.off_policy_low is None else features.off_policy_low
        reason = f"its own samples are {features.off_policy:.2f} nats a token likelier to the policy than the rows"
        if low >= self.foreign:
            yield from _each(OFFLINE, -1, f"off-policy responses, and it learns from them alone: {reason}")
            yield Point("ppo", 1, f"off-policy responses, and it learns from its own: {reason}")

    def _of_compute(self, resources: Resources) -> Iterator[Point]:
        if resources.hours is not None and resources.hours >= self.much_time and resources.online:
            yield from _each(ONLINE, 2, f"{resources.hours:g} h is time enough, and it is to adapt online")
        if resources.hours is not None and resources.hours < self.much_time:
            few = f"{resources.hours:g} h is little time, under {self.much_time:g} h"
            yield from _each(ONLINE, -1, f"{few}, and it trains a reward model and samples")
        if resources.update_every is not None and resources.update_every < self.much_time:
            often = f"it is trained again every {resources.update_every:g} h"
            yield from _each(OFFLINE, 1, f"{often}, which one short training can do")

    def _of_memory(self, situation: Situation) -> Iterator[Point]:
        """Points for memory, by the forecast, or where there is none by what online training usually takes."""
        if (vram := situation.resources.vram) is None:
            return
        for name in situation.algorithms:
            peak = situation.costs.get(name, {}).get("peak_bytes")
            if peak is not None:
                yield _of_peak(name, peak / 2**30, vram)
            elif name in ONLINE and vram < self.much_memory:
                yield Point(name, -1, f"{vram:g} GB is little for a value and sampling")

    def _little(self, resources: Resources) -> bool:
        hours, memory = resources.hours, resources.vram
        return (hours is not None and hours < self.much_time) or (memory is not None and memory < self.much_memory)


def _of_peak(name: str, peak: float, vram: float) -> Point:
    """A forecast peak in GiB beside the GPU's memory."""
    reason = f"its forecast peak of memory, {peak:.1f} GiB,"
    if near(peak, vram):
        return Point(name, -1, f"{reason} is so near the GPU's {vram:g} GB that it may not fit")
    if peak > vram:
        return Point(name, float("-inf"), f"{reason} is above the GPU's {vram:g} GB")
    return Point(name, 0, f"{reason} fits the GPU's {vram:g} GB")


def _low(features: Features, noise: float) -> float:
    """The noise that is certain; the noise itself where it has no interval."""
    return noise if features.noise_low is None else features.noise_low


def _high(features: Features, noise: float) -> float:
    return noise if features.noise_high is None else features.noise_high


def _of_use(resources: Resources) -> Iterator[Point]:
    if resources.live_reward:
        yield from _each(OFFLINE, float("-inf"), "it cannot learn from a live reward, only from pairs")
        yield from _each(ONLINE, 2, "it learns from a live reward")
    if resources.online is False:
        yield from _each(ONLINE, float("-inf"), "it samples while it trains, which is not wanted")
    if resources.staged:
        yield Point("dpo_then_ppo", 3, "several stages are allowed: DPO first, PPO from there")
    if resources.latency is not None:
        yield from _each(OFFLINE | ONLINE, 0, "the latency of a response is the base's, whatever trained it")


def _of_priority(resources: Resources) -> Iterator[Point]:
    if resources.priority == "stability":
        for algorithm, points in {"ipo": 2.0, "dpo": 1.0, "ppo": -1.0, "dpo_then_ppo": -1.0}.items():
            yield Point(algorithm, points, "stability ranks IPO, DPO, PPO")
    if resources.priority == "quality":
        yield from _each(ONLINE, 2, "quality ranks PPO above DPO and IPO")
    if resources.priority == "speed":
        yield from _each(OFFLINE, 2, "it trains neither a reward model nor on samples")


def _each(algorithms: frozenset[str], points: float, why: str) -> Iterator[Point]:
    return (Point(algorithm, points, why) for algorithm in sorted(algorithms))


def _reason(point: Point) -> str:
    return f"cannot: {point.why}" if point.points == float("-inf") else f"{point.points:+g} {point.why}"


@hookimpl
def register_selector() -> dict[str, type]:
    """The bundled selector."""
    return {"rules": Rules}
