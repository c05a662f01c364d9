"""Probes: effects by hand, a length bias planted in the sandbox's annotators, intervals that hold, models and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rlhf_watch.commands import register_commands
from rlhf_watch.probe import wording
from rlhf_watch.probe.effects import caused, observed
from rlhf_watch.probe.interventions import interventions, plain, words
from rlhf_watch.probe.probing import Effect, Score, probe
from rlhf_watch.probe.reading import of_file
from typer import Typer
from typer.testing import CliRunner

from rlhf_plugins import Base, DataError, Group, RlhfError, check_recipe, component, open_run, run_recipe
from rlhf_plugins.testing import tiny_base

PAIRS = [Group(f"p{i}", (f"good question. it is {i}.", "no.")) for i in range(4)]


def each(worth: Callable[[str, str], float]) -> Score:
    """A reward that reads each response alone."""
    return lambda prompts, texts: np.array([worth(*pair) for pair in zip(prompts, texts, strict=True)])


def effects(groups: Sequence[Group], score: Score, **options: Any) -> dict[str, Effect]:
    return {one.name: one for one in probe(groups, score, interventions(), **options).effects}


def test_effects_by_hand() -> None:
    """r = 2 words + 5 where it opens politely: an opener adds 5 and its own words, 2 or 3 of them."""
    polite = ("of course", "good question", "happy to help")
    found = effects(PAIRS, each(lambda _, text: 2 * words(text) + 5 * text.startswith(polite)))
    assert found["length"].effect.value == pytest.approx(2)
    assert found["length"].effect.interval == pytest.approx((2, 2))
    added = [2, 2, 3] * 2 + [2, 2]  # of eight responses, each with the next opener
    assert found["politeness"].effect.value == pytest.approx(5 + 2 * np.mean(added))
    assert found["politeness"].slope.value == pytest.approx(2 * 5 + 5 - 2)  # 5 words and an opener, 1 word and none
    assert found["politeness"].correlation.value == pytest.approx(1)
    assert found["order"].effect.value == -5  # the opener no longer comes first
    assert found["position"].effect.value == 0


def test_markdown_and_order_keep_the_words() -> None:
    known = {one.name: one for one in interventions()}
    text = "it is red. also, it likes to dig."
    assert known["markdown"].on(text, 0) == "- it is red.\n- also, it likes to dig."
    assert known["markdown"].off("# Red\n**it** is\n* red.", 0) == plain("Red it is red.")
    assert known["order"].on(text, 0) == "also, it likes to dig. it is red."
    assert known["length"].on("It is red.", 0) == "It is red. Well, let me think."
    assert known["politeness"].off("Good question. It is red.", 0) == "It is red."


@pytest.mark.parametrize("bias", [0.0, 0.2])
def test_a_length_bias_of_the_sandboxs_annotators_is_found(bias: float) -> None:
    """A word of filler costs 1/20 of gold, and the annotator likes each by `bias`; careful authors write longer."""
    options = {"writer": "sloppy", "prompts": 1, "test_prompts": 60}
    data = component("data_format", "sandbox", **options).load(Base(""), 0)
    gold: Any = data.gold
    asked = [group for group in data.test if all(gold(group.prompt, one)["concise"] > 0.8 for one in group.responses)]
    length = effects(asked, each(lambda p, text: gold(p, text)["total"] + bias * words(text)))["length"]
    assert length.effect.value == pytest.approx(bias - 0.05)
    assert length.effect.interval == pytest.approx((bias - 0.05, bias - 0.05))
    assert length.slope.value > bias + 0.1  # as observed a word seems to be worth 0.15 more than it is


def test_a_reward_that_compares_siblings_has_an_effect_of_position() -> None:
    def first_wins(prompts: Sequence[Any], texts: Sequence[Any]) -> Any:
        return np.array([1.0 if i == 0 or prompts[i] != prompts[i - 1] else 0.0 for i in range(len(texts))])

    found = effects(PAIRS, first_wins)["position"]
    assert (found.effect.value, found.responses, found.effect.shown) == (-1, 8, True)


@pytest.mark.parametrize("monitor", [False, True])
def test_a_vote_is_no_reward_of_one_response_that_a_probe_or_an_audit_reads(monitor: bool) -> None:
    votes = {"stage": "reward_ensemble", "aggregation": "vote"}
    audited = {"stage": "online", "reward": "gold", "monitors": [{"use": "reward_gap", "audit": "model"}]}
    with pytest.raises(RlhfError, match="aggregation vote compares the responses to a prompt, and a(n audit| probe)"):
        check_recipe({"base": "sandbox", "data": "sandbox", "stages": [votes, audited if monitor else "probe"]})
    mean = {**votes, "aggregation": "mean"}
    check_recipe({"base": "sandbox", "data": "sandbox", "stages": [mean, audited if monitor else "probe"]})


@pytest.mark.slow
def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Responses to one prompt share its effect, so that intervals over responses would be too narrow."""
    rng, held = np.random.default_rng(0), 0
    prompts = np.repeat(np.arange(40), 4)
    for seed in range(100):
        own = rng.normal(0.3, 1, 40)[prompts] + rng.normal(0, 0.3, 160)
        low, high = caused(own, np.ones(160), prompts, seed).interval
        held += low <= 0.3 <= high
    assert held / 100 == pytest.approx(0.95, abs=0.05)


def test_slope_and_correlation_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    r = 2 * x + rng.normal(size=50)
    found = observed(r, x, np.arange(50))
    assert found.slope.value == pytest.approx(np.polyfit(x, r, 1)[0])
    assert found.correlation.value == pytest.approx(np.corrcoef(x, r)[0, 1])
    assert found.slope.interval.low < 2 < found.slope.interval.high


def test_the_intervals_of_what_is_observed_are_those_of_resampled_prompts() -> None:
    """The rows of the drawn prompts are put together, without the sums that the code takes."""
    rng, prompts = np.random.default_rng(0), np.repeat(np.arange(7), 3)
    x = rng.normal(3, 1, 21)
    r = x + rng.normal(5, 1, 7)[prompts]
    drawn = np.random.default_rng(9).multinomial(7, [1 / 7] * 7, 2000)
    places = [np.repeat(np.arange(21), counts[prompts]) for counts in drawn]
    slopes = [np.polyfit(x[own], r[own], 1)[0] for own in places]
    correlations = [np.corrcoef(x[own], r[own])[0, 1] for own in places]
    found = observed(r, x, prompts, seed=9)
    assert found.slope.interval == pytest.approx(np.percentile(slopes, [2.5, 97.5]))
    assert found.correlation.interval == pytest.approx(np.percentile(correlations, [2.5, 97.5]))


def test_two_responses_to_one_prompt_have_a_slope_without_an_interval() -> None:
    found = observed(np.array([1.0, 2.0, 6.0]), np.array([1.0, 3.0, 5.0]), np.array([0, 0, 0]))
    assert found.slope.value == pytest.approx(5 / 4)  # x is -2, 0, 2 and r -2, -1, 3 about their means
    assert found.correlation.value == pytest.approx(10 / np.sqrt(8 * 14))


def test_an_effect_that_makes_a_reward_smaller_is_shown_as_well() -> None:
    prompts = np.arange(9)
    down = caused(np.array([-1.0, -1.1, -0.9] * 3), np.ones(9), prompts)
    assert (down.value, down.shown) == (pytest.approx(-1), True)
    assert not caused(np.array([-1.0, 1.1, 0.0] * 3), np.ones(9), prompts).shown
    assert np.isnan(caused(np.array([1.0]), np.array([0.0]), np.array([0])).value)


def test_the_place_among_three_siblings_runs_from_0_to_1() -> None:
    groups = [Group(f"p{i}", ("a.", "b.", "c.")) for i in range(4)]
    worth = {"a.": 1.0, "b.": 2.0, "c.": 5.0}
    found = effects(groups, each(lambda _, text: worth.get(text, 0.0)))["position"]
    assert found.slope.value == pytest.approx(4)  # the places are 0, 1/2 and 1
    assert (found.effect.value, found.responses) == (0, 8)  # first and last of each prompt


def test_the_last_message_of_a_response_is_changed_and_one_without_text_left_out() -> None:
    def said(text: object) -> list[dict[str, object]]:
        return [{"role": "assistant", "content": "a."}, {"role": "assistant", "content": text}]

    groups = [Group(f"p{i}", (said("good question. it is red."), said(None))) for i in range(3)]
    found = effects(groups, lambda _, texts: np.array([float(words(str(one[-1]["content"]))) for one in texts]))
    assert (found["length"].effect.value, found["length"].responses) == (pytest.approx(1), 3)
    assert found["politeness"].effect.value == pytest.approx((2 + 3 + 2) / 3)  # the openers of responses 0, 2 and 4


def test_what_cannot_be_measured_has_a_reason() -> None:
    found = effects(PAIRS, each(lambda *_: 0.0), reads=lambda text: "-" not in text)
    assert "tokenizer does not know" in found["markdown"].reason
    alone = effects([Group(f"p{i}", ("yes.",)) for i in range(3)], each(lambda *_: 0.0))
    assert alone["position"].reason == "no prompt has two responses"
    assert alone["order"].reason == "no response can be changed so"
    with pytest.raises(DataError, match="two prompts or more, got 1"):
        probe(PAIRS[:1], each(lambda *_: 0.0), interventions())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of annotators who like the longer response, probed in its run."""
    found, rng, lines = tmp_path_factory.mktemp("probe"), np.random.default_rng(0), []
    for i in range(200):
        short, long = (" ".join(rng.choice(["bee", "cat", "dog", "fox"], size)) for size in (3, 9))
        prompt = f"{('who', 'how', 'why')[i % 3]} is{' the' * (i % 8)}\n"
        lines.append({"prompt": prompt, "chosen": long, "rejected": short})
    (found / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trainer = {"max_steps": 25, "learning_rate": 3e-3, "per_device_train_batch_size": 32}
    recipe = {"base": tiny_base(found / "base").path, "adapter": "none", "output_dir": str(found / "run")}
    recipe["data"] = {"format": "preference", "source": str(found / "pairs.jsonl"), "test_fraction": 0.5}  # 12 prompts
    probing = {"stage": "probe", "fillers": ["bee cat"], "openers": ["the"], "rows": 24}
    run_recipe({**recipe, "stages": [{"stage": "reward_model", "trainer": trainer}, probing]}, say=lambda _: None)
    return found


def test_a_trained_models_love_of_length_is_in_the_report(folder: Path) -> None:
    found = open_run(folder / "run").finished[-1]
    length = found.metrics["effects"]["length"]
    assert length["effect_interval"][0] > 0
    assert found.metrics["effects"]["position"]["effect"] == pytest.approx(0, abs=1e-4)
    assert "The reward is raised by length" in found.sections[0].text


def test_the_command_probes_a_run_and_a_file(folder: Path) -> None:
    app = Typer()
    app.command()(register_commands()["probe"])
    words = [str(folder / "run"), "--filler", "bee cat", "--opener", "the"]
    whole = CliRunner().invoke(app, words, catch_exceptions=False).output
    assert "length: +" in whole
    assert "markdown: not measured: the tokenizer does not know" in whole
    given = CliRunner().invoke(app, [words[0], str(folder / "pairs.jsonl"), *words[1:], "--rows", "9", "--json"])
    assert json.loads(given.output)["effects"]["length"]["effect"] > 0


def test_a_row_without_a_response_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a", "chosen": "b"}\n')
    with pytest.raises(DataError, match="rows.jsonl:2: a row should have a `prompt` and response or responses or"):
        list(of_file(file))


def test_a_reward_that_is_one_number_but_for_rounding_goes_with_nothing() -> None:
    reward = np.array([0.3, 0.1 * 3, 0.3, 0.1 * 3])
    found = observed(reward, np.array([1.0, 2.0, 3.0, 4.0]), np.arange(4))
    assert np.isnan([found.slope.value, found.correlation.value]).all()


def test_one_prompt_shows_no_effect() -> None:
    """Only p0 has two sentences to be put in another order: each resample of prompts is the same."""
    asked = [Group("p0", ("it is red. it digs.", "it digs. it is red.")), Group("p1", ("no.",))]
    found = probe(asked, each(lambda _, text: float(text.startswith("it is"))), interventions())
    order = {one.name: one for one in found.effects}["order"]
    assert (order.effect.value, order.effect.shown, order.responses) == (0, False, 2)
    length = caused(np.array([3.0, 5.0]), np.array([1.0, 1.0]), np.array([0, 0]))
    assert (length.value, length.shown) == (4, False)
    assert np.isnan(length.interval).all()
    assert np.isnan(observed(np.array([1.0, 2.0]), np.array([1.0, 3.0]), np.array([0, 0])).slope.interval).all()
    assert "order: +0 (of one prompt)" in "\n".join(wording.lines(found))
    assert json.loads(json.dumps(wording.record(found), allow_nan=False))["effects"]["order"]["effect_interval"] is None


@pytest.mark.parametrize("count", [3, 5])
def test_an_effect_on_few_prompts_is_shown_as_rarely_as_it_says(count: int) -> None:
    rng = np.random.default_rng(0)
    shown = [caused(rng.normal(size=count), np.full(count, 7.0), np.arange(count)).shown for _ in range(200)]
    assert sum(shown) / 200 <= 0.085  # 0.05 and two standard errors; a bootstrap alone is wrong in 0.3 and 0.15


def test_rounding_is_no_effect_of_position() -> None:
    def last_rounds_up(prompts: Sequence[Any], texts: Sequence[Any]) -> Any:
        return np.array([1 + 1e-7 * (i > 0 and prompts[i] == prompts[i - 1]) for i in range(len(texts))])

    found = effects(PAIRS, last_rounds_up)["position"]
    assert (found.effect.value, found.effect.shown) == (0, False)
