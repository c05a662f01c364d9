"""Monitors see whole rollouts and batches; their alarms are recorded, and stop a training or scale its rates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from marks import slow
from torch import Tensor
from transformers import TrainerCallback

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.run import Alarm, Cost, Step
from rlhf_plugins.contract.run_kinds import Monitor
from rlhf_plugins.errors import ComponentError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.trainers.online.trainer import OnlineTrainer
from rlhf_plugins.trainers.ppo.options import Oversight
from rlhf_plugins.trainers.watching import trackers
from rlhf_plugins.trainers.watching.monitoring import Monitors
from rlhf_plugins.trainers.watching.supervision import monitors_of, regularize

from .conftest import furthest, trained
from .online_parts import Bases, ants, curve, logged, objective, trainer

Watch = Callable[[Step], Any]


class Calling(Monitor):
    """A function as a monitor."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def build(self, run: Any) -> Watch:
        return self.watch


def monitors(folder: Path, *watch: Watch) -> Monitors:
    return Monitors({f"guest {i}": Calling(each).build(None) for i, each in enumerate(watch)}, "online", folder)


def watched(base: Any, folder: Path, *watch: Watch, **options: Any) -> OnlineTrainer:
    return trainer(base, folder, oversight=Oversight(monitors=monitors(folder, *watch)), **options)


def saved(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "alarms.jsonl").read_text().splitlines()]


def test_the_main_process_decides_of_the_cost_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Cost] = []
    mains = {"guest": Alarm("spent", action="scale_lr", factor=0.5)}

    def gathered(own: Any) -> list[Any]:
        return [Cost(1.0, 2.0), Cost(3.0, 5.0)] if isinstance(own, Cost) else [mains, own]

    monkeypatch.setattr(processes, "gathered", gathered)
    found = Monitors({"guest": lambda step: seen.append(step.cost)}).show(Step("", 1, None, {}), {"scale_lr"})
    assert found == {"scale_lr": 0.5}
    assert seen == [Cost(seconds=1.0, flops=7.0)]


def test_a_monitor_sees_every_whole_rollout(bases: Bases, tmp_path: Path) -> None:
    steps: list[Step] = []
    found = watched(bases(), tmp_path, lambda step: steps.append(step))
    found.train()
    assert [(step.stage, step.step, step.total) for step in steps] == [("online", at, 6) for at in (0, 2, 4)]
    assert [step.values["reward"] for step in steps] == pytest.approx(logged(found, "reward"), rel=1e-4)
    assert ["policy_loss" in step.values for step in steps] == [False, True, True]  # of the updates since the last
    for step in steps:
        assert step.samples is not None
        assert step.prediction is not None
        assert len(step.samples.responses) == len(step.prediction.reward) == 12
        assert {len(values) for values in step.responses.values()} == {12}
        assert step.cost.seconds > 0
    assert not (tmp_path / "alarms.jsonl").exists()


class Logging(Monitor):
    """Logs the square of each step."""

    def build(self, run: Any) -> Watch:
        return lambda step: run.log(step.step, {"square": float(step.step**2)})


class Tracker(TrainerCallback):
    """Notes the squares that a tracker gets, with their steps."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.seen += [(state.global_step, logs["square"])] if "square" in logs else []


def test_trackers_get_what_monitors_log(bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "get_reporting_integration_callbacks", lambda names: [Tracker])
    kept: list[tuple[int, float]] = []
    run: Any = SimpleNamespace(folder=tmp_path, spec=lambda _: {"use": "squares"})
    run.log = lambda step, values: kept.append((step, values["square"]))
    found = trainer(bases(), tmp_path, oversight=Oversight(monitors=monitors_of([Logging()], "online", run)))
    found.add_callback(tracker := Tracker())
    found.train()
    assert tracker.seen == kept == [(0, 0.0), (2, 4.0), (4, 16.0)]


def test_a_monitor_of_a_rollout_sees_the_loss_and_the_rates_that_are_logged(bases: Bases, tmp_path: Path) -> None:
    """Each rollout is two minibatches, and one optimizer step."""
    steps: list[Step] = []
    found = watched(bases(), tmp_path, lambda step: steps.append(step), gradient_accumulation_steps=2, max_steps=3)
    stage = SimpleNamespace(regularizers=(component("regularizer", {"use": "l2_sp", "strength": 10.0}),))
    regularize(found, stage, SimpleNamespace(spec=lambda _: {"use": "l2_sp"}))  # type: ignore[arg-type]
    found.train()
    assert [step.values["learning_rate"] for step in steps] == pytest.approx(logged(found, "learning_rate"))
    for name in ("loss", "regularizer/l2_sp"):
        assert [step.values[name] for step in steps[1:]] == pytest.approx(logged(found, name)[:2], rel=1e-3)
    assert steps[2].values["regularizer/l2_sp"] > 0


def test_an_alarm_stops_a_training_and_leaves_its_evidence(bases: Bases, tmp_path: Path) -> None:
    def stop(step: Step) -> Alarm | None:
        alarm = Alarm("enough", {"responses": step.shown([3]), "t": torch.ones(2)}, 0.05, "stop")
        return alarm if step.step else None

    with pytest.raises(RunError, match=r"step 2: enough; the responses are in .*alarms\.jsonl"):
        watched(bases(), tmp_path, stop).train()
    (row,) = saved(tmp_path)
    assert [row[name] for name in ("step", "monitor", "action", "false_alarm_rate")] == [2, "guest 0", "stop", 0.05]
    assert row["evidence"]["t"] == [1.0, 1.0]
    assert row["evidence"]["responses"][0].keys() >= {"prompt", "response", "reward", "kl", "tokens"}


@pytest.mark.parametrize("kl", [*slow("in_reward"), "in_loss"])
def test_an_alarm_scales_the_kl_coefficient_from_the_next_rollout_on(bases: Bases, tmp_path: Path, kl: str) -> None:
    def halve(step: Step) -> Alarm | None:
        return Alarm("low", action="scale_kl", factor=0.5) if step.step == 2 else None

    found = watched(bases(), tmp_path, halve, aim=objective(kl={"use": kl, "coef": 0.2}))
    assert curve(found, "kl_coef") == pytest.approx([0.2, 0.2, 0.1])
    assert found.monitors.alarms[0]["factor"] == 0.5


@pytest.mark.parametrize("schedule", slow("cosine", "constant", "linear"))
def test_an_alarm_scales_the_learning_rate_whatever_the_schedule(bases: Bases, tmp_path: Path, schedule: str) -> None:
    def slow(step: Step) -> Alarm | None:
        return Alarm("fast", action="scale_lr", factor=0.1) if step.step == 2 else None

    plain = curve(trainer(bases(), tmp_path, lr_scheduler_type=schedule), "learning_rate")
    found = curve(watched(bases(), tmp_path, slow, lr_scheduler_type=schedule), "learning_rate")
    assert found[:1] == pytest.approx(plain[:1])
    assert found[2:] == pytest.approx([rate / 10 for rate in plain[2:]])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("stop", "gave a str, not an Alarm or None"),
        (Alarm("a", action="scale_l"), r"unknown action 'scale_l' \(did you mean scale_lr\?"),  # type: ignore[arg-type]
        (Alarm("a", action="scale_lr", factor=-1.0), "the factor -1.0, not a number above 0"),
        (Alarm("a", false_alarm_rate=2.0), "the false alarm rate 2.0, not a number from 0 to 1"),
    ],
)
def test_a_monitor_that_answers_anything_else_is_named(tmp_path: Path, answer: Any, message: str) -> None:
    with pytest.raises(ComponentError, match=f"Calling of .*{message}"):
        monitors(tmp_path, lambda step: answer).show(Step("", 0, 1, {}))


def test_a_monitor_that_raises_is_named(tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match=r"Calling of .* failed: UnknownName: unknown metric .* 'perplexity'"):
        monitors(tmp_path, lambda step: step.values["perplexity"]).show(Step("", 0, 1, {}))


def test_every_alarm_is_recorded_before_one_stops(tmp_path: Path) -> None:
    both = monitors(tmp_path, lambda s: Alarm("first", action="stop"), lambda s: Alarm("second", action="scale_kl"))
    with pytest.raises(RunError, match=r"^step 4: first$"):
        both.show(Step("", 4, 9, {}))
    assert [(row["message"], row["taken"]) for row in saved(tmp_path)] == [("first", True), ("second", False)]


def test_monitors_go_on_from_their_state(tmp_path: Path) -> None:
    def made() -> Monitors:
        return Monitors({"equal_rewards": component("monitor", "equal_rewards").build(None)})

    first, second = made(), made()
    first.show(Step("", 0, 1, {"equal_rewards": 1.0}))
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == {"equal_rewards": {"count": 1, "first": None}}
    with pytest.raises(RunError, match="the state of the monitor 'kl' fits none of: equal_rewards"):
        second.load_state_dict({"kl": {}})


def test_a_skipped_rollout_changes_no_weight(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, objective(lambda s: [1.0] * len(s.responses), shaping=[]), weight_decay=0.1)
    before = trained(found)
    assert curve(found, "skipped") == [1.0] * 6
    assert furthest(trained(found), before) == 0
    assert found.state.global_step == 6
    assert logged(found, "loss") == []
    assert len(logged(found, "reward")) == 3  # a rollout every two steps, as ever


@pytest.mark.slow
def test_a_skipped_minibatch_does_not_pull_the_loss_down(bases: Bases, tmp_path: Path) -> None:
    """Whatever moves the policy at all ends a rollout: of each one's two minibatches the second is skipped."""
    options = {"learning_rate": 0.1, "max_steps": 4}
    each = trainer(bases(), tmp_path, objective(stop_kl=-1.0), **options)
    alone = curve(each, "loss")
    together = trainer(bases(), tmp_path, objective(stop_kl=-1.0), logging_steps=4, **options)
    assert curve(together, "loss") == [pytest.approx(sum(alone) / 2)]
    assert len(alone) == 2
    assert logged(each, "train_loss") == [pytest.approx(sum(alone) / 2)]
    assert logged(each, "skipped") == [0.0, 1.0, 0.0, 1.0]
    assert logged(together, "skipped") == [0.5]


def test_a_solved_task_ends_the_training_and_keeps_its_policy(bases: Bases, tmp_path: Path) -> None:
    """A rollout every two steps; the rewards of the first differ, those of later ones are all 2."""
    rollouts = iter([[0.0, 1.0], [2.0, 2.0], [2.0, 2.0]])
    limit = Monitors({"equal": component("monitor", {"use": "equal_rewards", "limit": 1}).build(None)}, "a", tmp_path)
    aim = objective(lambda s: next(rollouts) * (len(s.responses) // 2), shaping=[])
    found = trainer(bases(), tmp_path, aim, max_steps=20, oversight=Oversight(monitors=limit))
    found.train()
    assert found.state.global_step == 5  # of the third rollout, which is skipped
    (row,) = saved(tmp_path)
    assert (row["action"], row["taken"], row["step"]) == ("end", True, 4)


class Broken(OnlineTrainer):
    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        with torch.no_grad():
            next(p for n, p in self.model.named_parameters() if "lora_B" in n).fill_(float("inf"))
        return super()._compute_loss(model, inputs)


def test_weights_that_become_infinite_stop_a_training_in_its_step(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises((RunError, ComponentError), match="nan"):
        trainer(bases(), tmp_path, cls=Broken).train()


class Diverging(OnlineTrainer):
    def _outputs(self, part: Any) -> Any:
        self._stop_at(torch.tensor(float("nan")), part)


def test_a_loss_that_is_not_finite_stops_and_leaves_its_responses(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="step 0: the loss became nan: try a smaller learning_rate"):
        trainer(bases(), tmp_path, cls=Diverging).train()
    (row,) = saved(tmp_path)
    assert row["monitor"] == "finite"
    assert len(row["evidence"]["responses"]) == 6


def test_a_policy_that_leaves_the_reference_is_stopped(bases: Bases, tmp_path: Path) -> None:
    free = objective(ants, kl={"use": "in_reward", "coef": 0.0})
    limit = Monitors({"kl_limit": component("monitor", {"use": "kl_limit", "limit": 0.5}).build(None)}, "a", tmp_path)
    options = {"max_steps": 40, "learning_rate": 0.1, "oversight": Oversight(monitors=limit)}
    with pytest.raises(RunError, match=r"the KL to the reference is .* nats per token"):
        trainer(bases(), tmp_path, free, **options).train()
    assert len(saved(tmp_path)[0]["evidence"]["responses"]) == 12
