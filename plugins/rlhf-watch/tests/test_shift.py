"""Shift: distances whose threshold keeps its rate, a classifier on texts, and a reward that abstains."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rlhf_watch.alarms.calibration import calibrate
from rlhf_watch.shift.distance import Distance
from rlhf_watch.shift.report import Texts, by_topic, lines, strange
from rlhf_watch.shift.trusted import Trusted, TrustedReward
from rlhf_watch.shift.two_sample import classifier_test
from rlhf_watch.shift.units import conversation, one_each
from scipy.stats import binomtest, chi2

from rlhf_plugins import DataError, Prediction, RunError, Samples, component


def test_a_distance_to_the_other_rows_is_that_of_leaving_the_row_out() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    usual = []
    for place in range(40):
        rest = np.delete(rows, place, 0)
        away = rows[place] - rest.mean(0)
        usual.append(away @ np.linalg.inv(np.cov(rest.T)) @ away)
    found = Distance.of(rows)
    assert found.usual == pytest.approx(sorted(usual))
    away = rows[0] - rows.mean(0)
    assert found(rows[:1])[0] == pytest.approx(away @ np.linalg.inv(np.cov(rows.T)) @ away)


def test_the_threshold_keeps_1_percent_where_chi_square_does_not() -> None:
    rng, ours, theirs = np.random.default_rng(0), [], []
    for _ in range(20):
        mixing = rng.normal(size=(75, 75))
        rows, fresh = (rng.standard_t(10, size=(count, 75)) @ mixing for count in (1000, 2000))
        distance = Distance.of(rows)
        ours.append((distance(fresh) > distance.threshold(0.01)).mean())
        theirs.append((distance(fresh) > chi2.ppf(0.99, 75)).mean())
    assert np.mean(ours) == pytest.approx(0.01, abs=0.0025)
    assert np.mean(theirs) > 0.05


def test_the_p_value_of_a_shift_allows_for_the_error_of_the_threshold() -> None:
    rng, ours, binomial = np.random.default_rng(0), [], []
    for _ in range(400):
        distance = Distance.of(rng.normal(size=(100, 1)))
        beyond = int((distance(rng.normal(size=(1000, 1))) > distance.threshold(0.01)).sum())
        ours.append(distance.chance(beyond, 1000, 0.01) <= 0.01)
        binomial.append(binomtest(beyond, 1000, 0.01, alternative="greater").pvalue <= 0.01)
    assert np.mean(ours) <= 0.02
    assert np.mean(binomial) == pytest.approx(0.15, abs=0.05)


def test_the_chance_of_rows_beyond_the_largest_of_n_by_hand() -> None:
    distance = Distance.of(np.random.default_rng(0).normal(size=(99, 1)))
    assert distance.chance(1, 1, 0.01) == pytest.approx(1 / 100)  # of 100 rows any is the largest
    assert distance.chance(2, 2, 0.01) == pytest.approx(2 / (101 * 100))  # the two largest of 101
    assert distance.chance(0, 5, 0.01) == 1.0


def test_rows_that_say_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="needs 20 rows"):
        Distance.of(np.zeros((3, 2)))
    with pytest.raises(DataError, match="the same features"):
        Distance.of(np.ones((30, 2)))
    Distance.of(np.random.default_rng(0).normal(size=(20, 2)))
    with pytest.raises(DataError, match="finite features"):
        Distance.of(np.where(np.eye(30, 2) == 1, np.nan, np.random.default_rng(0).normal(size=(30, 2))))
    with pytest.raises(DataError, match="promise a rate of 0.0323, not 0.01"):
        Distance.of(np.random.default_rng(0).normal(size=(30, 2))).threshold(0.01)


def texts(rng: np.random.Generator, words: str, count: int = 80) -> list[str]:
    return [" ".join(rng.choice(words.split(), 6)) for _ in range(count)]


def test_a_classifier_tells_other_texts_apart_and_not_the_same() -> None:
    rng = np.random.default_rng(0)
    one, same, other = (texts(rng, words) for words in ("a b c d e", "a b c d e", "a b c d z"))
    assert classifier_test(one, same).p > 0.01
    found = classifier_test(one, other)
    assert found.accuracy > 0.8
    assert found.p < 1e-4
    assert "z" in found.words
    assert classifier_test(one[:20], other).texts == 20
    with pytest.raises(DataError, match="20 different texts of each are needed, got 19 and 80"):
        classifier_test([*one[:19], *one[:19]], other)
    wrong = sum(classifier_test(texts(rng, "a b c d e"), texts(rng, "a b c d e")).p <= 0.05 for _ in range(60))
    assert wrong <= 8


def test_four_rows_of_a_prompt_or_conversation_count_as_one(tmp_path: Path) -> None:
    """With every turn counted, all five p-values are below 1%."""
    rng, file, p = np.random.default_rng(0), tmp_path / "rows.jsonl", []
    for _ in range(5):
        both = []
        for _ in range(2):
            users = [[{"role": "user", "content": text} for text in texts(rng, "a b c d e", 4)] for _ in range(30)]
            rows = ({"prompt": turns[: place + 1], "response": "x"} for turns in users for place in range(4))
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            both.append(Texts.read(file))
        assert len(both[0].pairs) == 30
        p.append(classifier_test(both[0].prompts, both[1].prompts).p)
    assert sum(np.array(p) <= 0.05) <= 1


def test_sibling_responses_keep_the_level() -> None:
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(60):
        shared = rng.normal(size=(200, 1, 10)) + 0.5 * rng.normal(size=(200, 4, 10))
        rows = one_each((f"{place}", row) for place, own in enumerate(shared) for row in own)
        usual, fresh = np.array([row for _, row in rows]).reshape(2, 100, 10)
        distance = Distance.of(usual)
        wrong += distance.chance(int((distance(fresh) > distance.threshold(0.01)).sum()), 100, 0.01) <= 0.05
    assert wrong <= 6


class Judge:
    """Its features are the responses' lengths, twice; its reward is 1."""

    def predict(self, samples: Samples) -> Prediction:
        features = torch.tensor([[float(len(text)), float(len(text) % 3)] for text in samples.responses])
        return Prediction(torch.ones(len(features)), features=features)

    __call__ = predict

    def encode(self, prompts: list[str], responses: list[str]) -> Samples:
        ids = [[0]] * len(prompts)
        return Samples(prompts, responses, ids, ids)


def trusted(fallback: Any = None) -> TrustedReward:
    rng = np.random.default_rng(0)
    judge = Judge()
    known = judge.encode([""] * 200, ["x" * int(size) for size in rng.integers(5, 20, 200)])
    distance = Distance.of(judge.predict(known).features.double().numpy())
    return TrustedReward(judge, distance, distance.threshold(0.01), fallback)


def test_a_reward_abstains_on_what_is_unlike_its_training() -> None:
    asked = Judge().encode(["", "", ""], ["x" * 10, "x" * 500, "x" * 12])
    assert trusted()(asked).abstained.tolist() == [False, True, False]
    other = trusted(lambda samples: [7.0 if len(text) > 99 else None for text in samples.responses])(asked)
    assert other.reward.tolist() == [1.0, 7.0, 1.0]
    assert other.abstained.tolist() == [False, False, False]


def test_a_fallback_may_abstain_and_so_may_the_judge() -> None:
    asked = Judge().encode([""] * 3, ["x" * 500, "x" * 10, "x" * 600])
    assert (found := trusted(lambda samples: [None, 3.0])(asked)).reward.tolist() == [0.0, 1.0, 3.0]
    assert found.abstained.tolist() == [True, False, False]
    answer = Prediction(torch.tensor([7.0, 8.0]), abstained=torch.tensor([False, True]))
    assert (found := trusted(lambda samples: answer)(asked)).reward.tolist() == [7.0, 1.0, 8.0]
    assert found.abstained.tolist() == [False, False, True]
    assert trusted(lambda samples: Prediction(torch.ones(2)))(asked).abstained.tolist() == [False] * 3

    class Unsure(Judge):
        def predict(self, samples: Samples) -> Prediction:
            found = Judge.predict(self, samples)
            return Prediction(found.reward, features=found.features, abstained=torch.tensor([False, True, False]))

    fitted = trusted()
    unsure = TrustedReward(Unsure(), fitted.distance, fitted.threshold)(asked)
    assert unsure.abstained.tolist() == [True, True, True]
    assert unsure.features is not None


def test_the_distance_is_fitted_to_one_training_response_of_each_prompt() -> None:
    seen = list[list[str]]()

    class Seen(Judge):
        def encode(self, prompts: list[str], responses: list[str]) -> Samples:
            seen.append(prompts)
            return Judge.encode(self, prompts, responses)

    rng = np.random.default_rng(0)
    groups = [
        SimpleNamespace(prompt=f"p{place}", responses=["x" * int(size) for size in rng.integers(5, 20, 2)])
        for place in range(150)
    ]
    run: Any = SimpleNamespace(data=SimpleNamespace(train=groups))
    judges: Any = SimpleNamespace(build=lambda _: Seen())
    found = Trusted(reward=judges, rows=120, fallback=SimpleNamespace(build=lambda _: "other")).build(run)
    assert seen == [[f"p{place}" for place in range(120)]]
    assert found.other == "other"
    assert found.threshold == found.distance.threshold(0.01)
    assert Trusted(reward=judges).build(run).other is None
    empty: Any = SimpleNamespace(data=SimpleNamespace(train=()))
    with pytest.raises(RunError, match="no training response"):
        Trusted(reward=judges).build(empty)


def test_a_reward_without_features_cannot_be_wrapped() -> None:
    run: Any = SimpleNamespace(data=SimpleNamespace(gold=lambda prompt, response: {"total": 0.0}, train=()))
    with pytest.raises(RunError, match="should be a reward model"):
        component("reward", "trusted", reward="gold").build(run)


def test_files_of_prompts_are_compared_in_words(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{name}.jsonl" for name in ("train", "deployed")]
    for file, words in zip(files, ("a b c d e", "v w x y z"), strict=True):
        file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts(rng, words)))
    said = "\n".join(lines(*files, None, 0.01))
    assert "100.0% of" in said
    assert "other prompts" in said
    files[1].write_text('{"text": 1}\n')
    with pytest.raises(DataError, match=r"deploid.jsonl: no such file \(did you mean .*deployed.jsonl\?\)"):
        list(lines(files[0], tmp_path / "deploid.jsonl", None, 0.01))
    with pytest.raises(DataError, match="deployed.jsonl:1: a row should be an object with a `prompt`"):
        list(lines(*files, None, 0.01))


@pytest.mark.parametrize(
    ("size", "said"), [(12, "knows responses like these"), (500, "not trained on responses like 100%")]
)
def test_a_reward_model_is_trusted_where_it_knows_such_responses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, said: str
) -> None:
    monkeypatch.setattr("rlhf_plugins.load_reward_model", lambda model: Judge())
    rng = np.random.default_rng(0)
    train, deployed = tmp_path / "train.jsonl", tmp_path / "deployed.jsonl"
    for file, sizes in ((train, rng.integers(5, 20, 200)), (deployed, [size] * 60)):
        rows = ({"prompt": f"tell {i}", "response": "x" * int(own), "chosen": "y"} for i, own in enumerate(sizes))
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    *_, responses, _, last = lines(train, deployed, "judge", 0.01)
    beyond = 60 if size == 500 else 0
    assert responses.startswith(f"responses: {beyond} of 60, one of each prompt, are farther than all but 1.0%")
    assert last.startswith(f"judge {'was ' if beyond else ''}{said}")


def test_responses_cannot_be_compared_without_responses_or_features(tmp_path: Path) -> None:
    def texts_of(*rows: dict[str, Any]) -> Texts:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Texts.read(tmp_path / "rows.jsonl")

    class Bare(Judge):
        def predict(self, samples: Samples) -> Prediction:
            return Prediction(torch.ones(len(samples.responses)))

    some = texts_of({"prompt": "a", "response": "b"})
    with pytest.raises(DataError, match="rows.jsonl: no row has a `response` or `chosen`"):
        strange(some, texts_of({"prompt": "a"}), Judge(), 0.01)
    with pytest.raises(DataError, match="gives no features"):
        strange(some, some, Bare(), 0.01)


def test_prompts_of_any_kind_belong_to_a_conversation() -> None:
    system, user = {"role": "system", "content": "s"}, {"role": "user", "content": "u"}
    assert conversation([system, user, {"role": "assistant", "content": "a"}]) == conversation([system, user])
    assert conversation([system]) != conversation([system, user])
    assert conversation([dict(reversed(user.items()))]) == conversation([user])
    assert conversation({"b": 1, "a": 2}) == conversation({"a": 2, "b": 1})
    assert conversation(["u", "v"]) != conversation(["u"])
    assert conversation("u") == "u"


class LongerIsBetter(Judge):
    """1 for the longer one of the two responses of a row, which it is given together; alone each would tie."""

    def predict(self, samples: Samples) -> Prediction:
        rows = list(zip(samples.groups(), map(len, samples.responses), strict=True))
        return Prediction(torch.tensor([float(sum(own > each for at, each in rows if at == row)) for row, own in rows]))


def test_accuracy_is_printed_by_topic_where_pairs_were_judged(tmp_path: Path) -> None:
    """Of 40 prompts of law and 10 of cooking, each with two rows, those of law are judged by the shorter response."""
    file = tmp_path / "deployed.jsonl"
    law, cooking = ({"chosen": "a", "rejected": "long"}, {"chosen": "long", "rejected": "a"})
    rows = [{**law, "prompt": f"l{i // 2}", "topic": "law"} for i in range(80)]
    rows += [{**cooking, "prompt": f"c{i // 2}", "topic": "cooking"} for i in range(20)] + [{"prompt": "other"}]

    def said(rows: list[dict[str, Any]], column: str = "topic") -> list[str]:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [*by_topic(Texts.read(file), LongerIsBetter(), column)]

    assert said(rows) == [
        "accuracy by topic:",
        "  law: 0.000 [0.000, 0.088], -1.000 to the others, 40 prompts (80.0%)",  # 3.84 / 43.84
        "  cooking: 1.000 [0.722, 1.000], +1.000 to the others, 10 prompts (20.0%)",  # 10 / 13.84
        "law is judged worse than the others, by 100.0% (p 0.0002)",
    ]
    assert said(rows[80:]) == ["accuracy: 1.000 [0.722, 1.000], 10 prompts, all of topic cooking"]
    assert "needs rows with `chosen` and `rejected`, as people judged them, and a column 'tag'" in said(rows, "tag")[0]


def test_clean_runs_that_are_missing_are_answered_by_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    with pytest.raises(RunError, match=r"claen: no such folder \(did you mean .*clean\?\)"):
        calibrate([tmp_path / "claen"], 0.5)


def test_messages_and_text_with_the_same_words_are_the_same_prompts(tmp_path: Path) -> None:
    plain, messages = tmp_path / "plain.jsonl", tmp_path / "messages.jsonl"
    questions = [f"what is {place} plus {place * 7 % 11} ?" for place in range(80)]
    turns: list[Any] = [[{"role": "user", "content": text}] for text in questions]
    turns[0] = [{"role": "user", "content": [{"type": "text", "text": questions[0]}]}]
    plain.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in questions))
    messages.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in turns))
    assert Texts.read(messages).prompts == Texts.read(plain).prompts
    *_, last = lines(plain, messages, None, 0.01)
    assert last == "the prompts are alike as far as this test can tell"
