"""The order of uncertainty, with a random arm that is a fair sample and prompts that take turns."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from rlhf_collect import acquire
from rlhf_collect import release as releases
from rlhf_collect.acquire import Open, arranged, prioritise
from rlhf_collect.simulate import join
from rlhf_collect.store.desk import Desk
from studies import Browser, Never, pair, prefers_good, study

from rlhf_plugins import DataError, Prediction, Samples


class Rewards:
    """A reward model whose rewards of item n's answers differ by n, and whose members disagree by 10 - n."""

    def encode(self, prompts: list[str], responses: list[str]) -> Samples:
        return Samples(prompts, responses, [[0]] * len(prompts), [[0]] * len(prompts))

    def predict(self, samples: Samples) -> Prediction:
        numbers = torch.tensor([float(text.split()[1]) for text in samples.responses])
        sign = torch.tensor([1.0 if text.startswith("good") else 0.0 for text in samples.responses])
        members = sign[:, None] * (10 - numbers[:, None]) * torch.tensor([1.0, -1.0])
        return Prediction(sign * numbers, members=members)


class Beaten(Rewards):
    """One half, and 0.1 for each letter by which a response is longer than the one that it is compared with."""

    def predict(self, samples: Samples) -> Prediction:
        groups, sizes = samples.groups(), [len(text) for text in samples.responses]
        rows = list(zip(groups, sizes, strict=True))
        gaps = [[own - other for at, other in rows if at == group] for group, own in rows]
        assert all(len(gap) == 2 for gap in gaps), "each item by itself"
        return Prediction(torch.tensor([0.5 + 0.1 * sum(gap) for gap in gaps]))


def test_a_model_that_compares_is_asked_of_both_answers_to_an_item_at_once() -> None:
    """Lengths differ by 1, 0 and 3, all to one prompt; alone each answer would have one half, and every margin 0."""
    items = [Open(n, "who", "", pair) for n, pair in enumerate((("a", "ab"), ("abc", "abc"), ("abcd", "a")))]
    first, second = acquire.predictions(Beaten(), items)
    assert (first.reward - second.reward).tolist() == pytest.approx([-0.2, 0.0, 0.6])


@pytest.fixture
def rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquire, "load_reward_model", lambda name: Rewards())


def opened(count: int, clusters: int = 10**9) -> list[Open]:
    return [Open(n, f"prompt {n}", str(n % clusters), ("a", "b")) for n in range(count)]


@pytest.mark.parametrize("by", ["margin", "variance"])
@pytest.mark.usefixtures("rewards")
def test_people_are_asked_first_where_the_model_is_least_sure(tmp_path: Path, by: str) -> None:
    made = study(tmp_path, [pair(n) for n in (3, 1, 2)], votes=1)
    assert prioritise(made, "runs/a", by, 0.0) == (3, 0)
    desk, ada, asked = Desk(made, Never()), join(made, "Ada"), []
    while task := desk.claim(ada):
        asked.append(task.prompt)
        desk.submit(ada, {"token": task.token, "key": task.token[:20], "choice": "1"})
    assert asked == [f"<p>prompt {n}</p>\n" for n in (1, 2, 3)]


def test_a_fifth_of_all_places_is_the_random_arms_from_start_to_end() -> None:
    order = arranged(opened(1000), [float(n) for n in range(1000)], 0.2, Random(0))
    assert sorted(item for item, _ in order) == list(range(1000))
    for start in range(0, 800, 200):
        assert 20 <= sum(arm == "random" for _, arm in order[start : start + 200]) <= 60  # 40 +- 3.5 deviations
    drawn = [item for item, arm in order if arm == "random"]
    assert 450 < sum(drawn) / len(drawn) < 550


def test_prompts_take_turns() -> None:
    order = arranged(opened(6, clusters=2), [6.0, 1.0, 5.0, 2.0, 4.0, 3.0], 0.0, Random(0))
    assert [item % 2 for item, _ in order] == [0, 1] * 3
    assert order[0] == (0, "chosen")


@pytest.mark.usefixtures("rewards")
def test_rows_of_a_release_say_what_chose_them(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(30)], votes=1)
    chosen, drawn = prioritise(made, "runs/a", random_share=0.3)
    Browser(made, "Ada").work(prefers_good)
    arms = [one.item.arm for one in releases.make(made, releases.Parameters()).rows]
    assert (arms.count("chosen"), arms.count("random")) == (chosen, drawn)
    assert drawn > 2


@pytest.mark.parametrize(("by", "share", "fault"), [("gut", 0.2, "unknown way 'gut'"), ("margin", 1.0, "random share")])
def test_what_cannot_be_is_refused(tmp_path: Path, by: str, share: float, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        prioritise(study(tmp_path, [pair(1)]), "runs/a", by, share)
