"""A script of TRL's RewardTrainer with one import changed: the same numbers and files; where TRL errs, ours do not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from copy import copy, deepcopy
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset, IterableDataset
from marks import slow
from peft import LoraConfig, PromptTuningConfig
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig, TrainerCallback
from trl.trainer.reward_trainer import DataCollatorForPreference
from trl_rows import preference_dataset

from rlhf_plugins import DataError, PluginError, RewardLoss, RewardTrainer, RunError, component, load_reward_model
from rlhf_plugins.contract.run import Base
from rlhf_plugins.engine.weights.loading import load_tokenizer, load_trunk
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_encoder, tiny_pairs, tiny_run
from rlhf_plugins.trainers.arguments import arguments

from .conftest import OPTIONS, furthest, losses, trained

Bases = Callable[..., Base]
Rows = list[dict[str, Any]]
PAIRS = tiny_pairs(24)
TEXTS: Rows = list(preference_dataset(PAIRS))
KINDS = [trl.RewardTrainer, RewardTrainer]


def script(kind: Any, base: Base, folder: Path, rows: Any = TEXTS, **given: Any) -> Any:
    """What a user's script makes; `args` holds options of the configuration, all else goes to the trainer."""
    args = arguments(trl.RewardConfig, folder, 0, {**OPTIONS, **given.pop("args", {})})
    data = Dataset.from_list(rows) if isinstance(rows, list) else rows
    given = {"model": base.path, "processing_class": load_tokenizer(base), **given}
    return kind(given.pop("model"), args, train_dataset=data, **given)


def numbers(entry: Any) -> dict[str, float]:
    """What was logged, without times and FLOPs, which are of the tokens as they are laid out."""
    return {name: value for name, value in entry.items() if not re.search("time|per_second|flos", name)}


def test_the_constructor_is_trls_with_ours_behind() -> None:
    theirs, ours = list(signature(trl.RewardTrainer).parameters.values()), signature(RewardTrainer).parameters
    assert list(ours.values())[: len(theirs)] == theirs
    assert list(ours)[len(theirs) :][:4] == ["loss", "head", "pooling", "sampler"]


def test_a_script_trains_and_logs_as_with_trl(bases: Bases, tmp_path: Path) -> None:
    stock, ours = (script(kind, bases(), tmp_path / kind.__module__) for kind in KINDS)
    assert losses(ours) == pytest.approx(losses(stock), rel=1e-5, abs=1e-6)
    assert furthest(trained(ours), trained(stock)) < 1e-4
    for entry, expected in zip(ours.state.log_history, stock.state.log_history, strict=True):
        assert numbers(entry) == pytest.approx(numbers(expected), rel=1e-3, abs=1e-5)


def test_a_checkpoint_has_the_files_and_weights_of_trls(bases: Bases, tmp_path: Path) -> None:
    found = []
    for kind in KINDS:
        trainer = script(kind, bases(), tmp_path / kind.__module__, args={"save_strategy": "steps", "save_steps": 5})
        trainer.train()
        found.append(tmp_path / kind.__module__ / "checkpoint-5")
    names = [sorted(file.name for file in folder.iterdir()) for folder in found]
    assert names[0] == names[1]
    stock, ours = (load_file(folder / "model.safetensors") for folder in found)
    assert furthest(ours, stock) < 1e-4
    assert json.loads((found[0] / "config.json").read_text()) == json.loads((found[1] / "config.json").read_text())


def test_a_recipe_trains_as_a_script_that_asks_for_its_head_and_sampler(bases: Bases, tmp_path: Path) -> None:
    options = {name: value for name, value in OPTIONS.items() if name != "disable_tqdm"}
    own = {"head": component("reward_head", "scalar"), "sampler": component("sampler", "shuffled")}
    ours = script(RewardTrainer, bases(), tmp_path / "script", **own)
    stage = component("stage", "reward_model", trainer=options)
    result = stage.run(tiny_run(bases(), tmp_path / "stage", PAIRS))
    assert losses(ours) == pytest.approx([value for _, value in result.curves["loss"].points], rel=1e-5)


@pytest.mark.parametrize("batch", [4, 8])
def test_evaluation_is_trls_and_metrics_get_its_blocks(bases: Bases, tmp_path: Path, batch: int) -> None:
    seen, given = [], {"eval_dataset": Dataset.from_list(TEXTS[:8]), "args": {"per_device_eval_batch_size": batch}}
    metric = lambda of: seen.append(of.predictions) or {"spread": float(of.predictions.std())}  # noqa: E731
    stock = script(trl.RewardTrainer, bases(), tmp_path, compute_metrics=metric, **given)
    ours = script(RewardTrainer, bases(), tmp_path, compute_metrics=metric, tokens_per_batch=30, **given)
    expected, found = stock.evaluate(), ours.evaluate()
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-4)
    assert seen[0].shape == seen[1].shape == (16, 1)
    assert seen[1] == pytest.approx(seen[0], rel=1e-4)
    assert {"eval_loss", "eval_spread", "eval_margin", "eval_min_reward"} <= found.keys()


def test_a_metric_gets_the_whole_of_a_last_batch_that_is_smaller(bases: Bases, tmp_path: Path) -> None:
    """Of three pairs in batches of two, TRL loses the rejected response of the last, and so gives five rewards."""
    found: list[int] = []
    given = {"eval_dataset": Dataset.from_list(TEXTS[:3]), "args": {"per_device_eval_batch_size": 2}}
    metric = lambda of: found.append(len(of.predictions)) or {}  # noqa: E731
    stock, ours = (script(kind, bases(), tmp_path, compute_metrics=metric, **given).evaluate() for kind in KINDS)
    assert found == [5, 6]
    assert ours["eval_loss"] == pytest.approx(stock["eval_loss"], rel=1e-5)


def test_a_set_that_evaluate_is_given_is_tokenised_first(bases: Bases, tmp_path: Path) -> None:
    stock, ours = (script(kind, bases(), tmp_path).evaluate(Dataset.from_list(TEXTS[:8])) for kind in KINDS)
    assert numbers(ours) == pytest.approx(numbers(stock), rel=1e-4)


@pytest.mark.parametrize("config", [{"task_type": "SEQ_CLS"}, {"modules_to_save": ["score"]}])
def test_an_adapter_trains_and_is_saved_with_its_head_as_with_trl(bases: Bases, tmp_path: Path, config: Any) -> None:
    saved = []
    for kind in KINDS:
        adapter = LoraConfig(r=4, target_modules="all-linear", **config)
        trainer = script(kind, bases(), tmp_path, peft_config=adapter)
        saved.append((losses(trainer), trained(trainer)))
        trainer.save_model(str(tmp_path / kind.__module__))
    assert saved[1][0] == pytest.approx(saved[0][0], rel=1e-5, abs=1e-6)
    assert furthest(saved[1][1], saved[0][1]) < 1e-4
    stock, ours = (load_file(tmp_path / kind.__module__ / "adapter_model.safetensors") for kind in KINDS)
    assert furthest(ours, stock) < 1e-4
    assert any("score" in name for name in ours)


def test_an_adapter_that_forgets_the_head_saves_it_all_the_same(bases: Bases, tmp_path: Path) -> None:
    """TRL freezes the head where it starts, at random, and leaves it out of the file."""
    for kind in KINDS:
        config = LoraConfig(r=4, target_modules="all-linear")
        script(kind, bases(), tmp_path, peft_config=config).save_model(str(tmp_path / kind.__module__))
        assert config.modules_to_save is None
    stock, ours = (load_file(tmp_path / kind.__module__ / "adapter_model.safetensors") for kind in KINDS)
    assert [any(name.endswith("score.weight") for name in found) for found in (stock, ours)] == [False, True]


@pytest.mark.parametrize("adapter", [*slow(False), True], ids=["full", "lora"])
def test_a_training_that_was_cut_goes_on_as_if_it_had_not_been(bases: Bases, tmp_path: Path, adapter: bool) -> None:
    config = {"peft_config": LoraConfig(r=4, task_type="SEQ_CLS")} if adapter else {}
    args = {"save_strategy": "steps", "save_steps": 3}
    whole = script(RewardTrainer, bases(), tmp_path, args=args, **config)
    expected = losses(whole)
    again = script(RewardTrainer, bases(), tmp_path, args=args, **config)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert [e["loss"] for e in again.state.log_history if "loss" in e] == pytest.approx(expected)
    assert furthest(trained(again), trained(whole)) < 1e-6


def test_a_model_may_be_an_object_and_a_callback_sees_every_step(bases: Bases, tmp_path: Path) -> None:
    seen, model = [], AutoModelForSequenceClassification.from_pretrained(bases().path, num_labels=1)
    watch = type("Watch", (TrainerCallback,), {"on_step_end": lambda *_, model, **__: seen.append(model)})()
    trainer = script(RewardTrainer, bases(), tmp_path, model=model, callbacks=[watch])
    stock = script(trl.RewardTrainer, bases(), tmp_path, model=deepcopy(model))
    assert losses(trainer) == pytest.approx(losses(stock), rel=1e-5)
    assert trainer.model is model
    assert seen == [model] * 5


class Scaled(RewardLoss):
    """Bradley-Terry on s d, with s learned."""

    def build(self) -> torch.nn.Module:
        return Scale(1, 1, bias=False)


class Scale(torch.nn.Linear):
    def forward(self, scores: Any) -> torch.Tensor:
        return -torch.nn.functional.logsigmoid(super().forward((scores.chosen - scores.rejected).unsqueeze(1))[:, 0])


OWN = {"head": component("reward_head", "mlp"), "pooling": component("pooling", "attention")}


@pytest.mark.parametrize("own", [*slow({}), OWN], ids=["score", "own"])
@pytest.mark.parametrize("adapter", [*slow(None), LoraConfig(r=4, target_modules="all-linear")], ids=["full", "lora"])
def test_a_reward_model_of_a_script_opens_as_a_stages(bases: Bases, tmp_path: Path, own: Any, adapter: Any) -> None:
    trainer = script(RewardTrainer, bases(), tmp_path, peft_config=adapter, **own)
    trainer.train()
    trainer.save_reward_model(tmp_path / "model")
    opened = load_reward_model(tmp_path / "model")
    samples = opened.encode([row["prompt"] for row in TEXTS], [row["chosen"] for row in TEXTS])
    expected = trainer._scorer.predict(samples, trainer.processing_class.pad_token_id).reward
    assert opened.predict(samples).reward.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert expected.std() > 0.1


@pytest.mark.filterwarnings("error:bitsandbytes")
def test_a_script_trains_through_quantized_weights_and_its_model_opens_on_them(bases: Bases, tmp_path: Path) -> None:
    """In evaluation bitsandbytes would repack them, and later pass no gradient; TRL also rounds the adapter."""
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    base, adapter = bases(hidden_size=64, head_dim=16), LoraConfig(r=4, task_type="SEQ_CLS")
    trainer = script(RewardTrainer, base, tmp_path, peft_config=adapter, quantization_config=nf4)
    trainer.train()
    assert {weights.dtype for weights in trained(trainer).values()} == {torch.float32}
    trainer.save_reward_model(tmp_path / "model")
    opened = load_reward_model(tmp_path / "model")
    samples = opened.encode([row["prompt"] for row in TEXTS], [row["chosen"] for row in TEXTS])
    expected = trainer._scorer.predict(samples, trainer.processing_class.pad_token_id).reward
    assert opened.predict(samples).reward.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("adapter", [*slow(None), LoraConfig(r=4)], ids=["full", "lora"])
def test_a_head_of_ones_own_is_trained_and_resumed(bases: Bases, tmp_path: Path, adapter: Any) -> None:
    args = {"save_strategy": "steps", "save_steps": 3}
    own = {**OWN, "loss": Scaled()}
    whole = script(RewardTrainer, bases(), tmp_path, args=args, peft_config=adapter, **own)
    before = trained(whole)
    expected = losses(whole)
    again = script(RewardTrainer, bases(), tmp_path, args=args, peft_config=adapter, **own)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert [e["loss"] for e in again.state.log_history if "loss" in e] == pytest.approx(expected)
    assert furthest(trained(again), trained(whole)) < 1e-6
    moved = {name for name, values in trained(whole).items() if not torch.equal(values, before[name])}
    assert all(any(part in name for name in moved) for part in ("score", "pooling", "loss"))


def messages(rows: Rows) -> Rows:
    """The rows as conversations."""
    said = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return [{name: [{"role": role, "content": row[name]}] for name, role in said.items()} for row in rows]


def implicit(rows: Rows) -> Rows:
    """The rows with the prompt at the start of both responses."""
    return [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in rows]


def tokens(rows: Rows) -> Rows:
    """The rows as token ids, of which some pairs share none."""
    return [{"chosen_ids": [3 + i % 5, 4, 5, 6][: 2 + i % 3], "rejected_ids": [3, 4, 7]} for i, _ in enumerate(rows)]


def streamed(rows: Rows) -> IterableDataset:
    """The rows as a stream that does not say its columns."""
    return IterableDataset.from_generator(lambda: iter(rows))


@pytest.mark.parametrize("form", [messages, tokens, *slow(implicit, streamed)])
def test_every_form_of_trls_rows_trains_as_with_trl(bases: Bases, tmp_path: Path, form: Callable[..., Any]) -> None:
    words = load_tokenizer(bases())
    words.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }} <eos> {% endfor %}"
    exact = {"model_init_kwargs": {"dtype": torch.float64}}  # training makes more of the rounding of some CPUs
    stock, ours = (script(kind, bases(), tmp_path, form(TEXTS), processing_class=words, args=exact) for kind in KINDS)
    assert losses(ours) == pytest.approx(losses(stock), rel=1e-5, abs=1e-6)


def test_a_centred_loss_is_trls(bases: Bases, tmp_path: Path) -> None:
    rows = [{**row, "margin": 0.5} for row in TEXTS]
    args = {"center_rewards_coefficient": 0.3}
    stock, ours = (script(kind, bases(), tmp_path, rows, args=args) for kind in KINDS)
    assert losses(ours) == pytest.approx(losses(stock), rel=1e-5, abs=1e-6)


def test_a_margin_that_the_first_row_lacks_counts_in_the_others(bases: Bases, tmp_path: Path) -> None:
    """TRL's collator looks at the first row: it ignores the margins of the others, or fails at theirs."""
    rows = [{**row, "margin": margin} for row, margin in zip(TEXTS, (None, 2.0, None, 0.5), strict=False)]
    ours = script(RewardTrainer, bases(), tmp_path, rows, args={"max_steps": 1})
    zeros = script(RewardTrainer, bases(), tmp_path, [{**row, "margin": row["margin"] or 0.0} for row in rows])
    assert losses(ours)[0] == pytest.approx(losses(zeros)[0])
    assert losses(ours)[0] != pytest.approx(losses(script(RewardTrainer, bases(), tmp_path, TEXTS[:4]))[0], rel=0.05)


@pytest.mark.parametrize("form", [Dataset.from_list, streamed])
def test_pairs_that_are_too_long_are_left_out_and_counted(
    bases: Bases, tmp_path: Path, form: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """TRL leaves them out too, and tells nobody."""
    args = {"max_length": 10, "max_steps": 3, "per_device_train_batch_size": 1}
    stock, ours = (script(kind, bases(), tmp_path, form(TEXTS), args=args) for kind in KINDS)
    assert losses(ours) == pytest.approx(losses(stock), rel=1e-4)
    assert ours.left_out["longer than max_length"] > 2
    assert "longer than max_length" in caplog.text


def test_where_padding_is_eos_the_last_token_is_scored(
    bases: Bases, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """TRL scores the token before; a script is warned that a classifier that it saves does so too."""
    base, rows = bases(pad_is_eos=True), TEXTS[:1]
    stock, ours = (script(kind, base, tmp_path, rows, args={"max_steps": 1}) for kind in KINDS)
    ids = ours.train_dataset[0]
    last = [ours.model.model(torch.tensor([ids[n]])).last_hidden_state[0, -1] for n in ("chosen_ids", "rejected_ids")]
    gap = float(ours.model.score(last[0] - last[1]))
    assert losses(ours) == [pytest.approx(math.log1p(math.exp(-gap)), rel=1e-5)]
    assert losses(stock) != pytest.approx(losses(ours), rel=0.01)
    assert "padding is EOS" in caplog.text


@pytest.mark.parametrize("name", ["weight", "probability"])
def test_a_column_that_trls_loss_does_not_read_is_named(
    bases: Bases, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, name: 0.75} for row in TEXTS]
    weighed = [{**row, "weight": 0.75} for row in TEXTS]
    script(RewardTrainer, bases(), tmp_path, weighed, loss=component("reward_loss", "weighted"))
    assert "does not read the columns" not in caplog.text
    script(RewardTrainer, bases(), tmp_path, rows)
    assert caplog.text.count(f"does not read the columns ['{name}']: loss=component('reward_loss', NAME)") == 1


def collate(rows: Rows) -> dict[str, torch.Tensor]:
    """A collator of a user's own."""
    return DataCollatorForPreference(pad_token_id=0)(rows)


PROMPT = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"data_collator": collate}, "data_collator="),
        *slow(
            ({"args": {"pad_to_multiple_of": 8}}, "pad_to_multiple_of=8"),
            ({"args": {"neftune_noise_alpha": 1.0}}, "neftune_noise_alpha=1.0"),
        ),
        (
            {"peft_config": PROMPT},
            "an adapter that learns a prompt",
        ),
    ],
)
def test_trls_own_way_is_trls(
    bases: Bases, tmp_path: Path, given: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    stock, ours = (losses(script(kind, bases(), tmp_path, **{k: copy(v) for k, v in given.items()})) for kind in KINDS)
    assert ours == stock
    assert f"RewardTrainer goes TRL's own way: {reason}" in caplog.text
    with pytest.raises(RunError, match=f"tokens_per_batch= needs the engine, which does not compute {reason}"):
        script(RewardTrainer, bases(), tmp_path, tokens_per_batch=9, **given)


def test_an_encoder_goes_trls_way(tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path / "bert")
    stock, ours = (losses(script(kind, base, tmp_path)) for kind in KINDS)
    assert ours == stock


def test_a_reward_model_of_ours_takes_trls_rows(bases: Bases, tmp_path: Path) -> None:
    ours = script(RewardTrainer, bases(), tmp_path, args={"max_steps": 1})
    parts = component("pooling", "last_token"), component("reward_head", "scalar")
    model = RewardModel(load_trunk(bases()), *parts)
    model.head.load_state_dict(ours.model.score.state_dict())
    assert losses(script(RewardTrainer, bases(), tmp_path, model=model)) == pytest.approx(
        losses(script(RewardTrainer, bases(), tmp_path)), rel=1e-5
    )
    with pytest.raises(RunError, match="head: a RewardModel has trunk, pooling and head already"):
        script(RewardTrainer, bases(), tmp_path, model=model, head=parts[1])


BT = component("reward_loss", "bradley_terry")
ADAM = (torch.optim.AdamW([torch.ones(1, requires_grad=True)]), None)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"loss": "focal"}, PluginError, "loss is a component, not a name: write component"),
        ({"loss": 3}, RunError, "loss= takes a component of the kind reward_loss, not a int"),
        ({"head": BT}, RunError, "head= takes a component of the kind reward_head, not a BradleyTerry"),
        ({"pooling": [BT]}, RunError, "pooling= takes a component of the kind pooling, not a list"),
        ({"sampler": BT}, RunError, "sampler= takes a component of the kind sampler, not a BradleyTerry"),
        ({"los": BT}, TypeError, "no argument is called 'los' .did you mean loss"),
        ({"args": {"label_smoothing_factor": 0.1}}, RunError, "label_smoothing_factor: TRL's RewardTrainer ignores it"),
        ({"optimizers": ADAM, "head": component("reward_head", "mlp")}, RunError, "head: the optimizer in"),
        ({"features": torch.ones(1, 2)}, RunError, "features are those of a RewardModel"),
        ({"rows": streamed(TEXTS), "sampler": component("sampler", "shuffled")}, RunError, "not streamed"),
        ({"loss": component("reward_loss", "bradley_terry_margin")}, DataError, "needs the column 'margin'"),
        ({"loss": component("reward_loss", "regression")}, DataError, "needs the column 'ratings'"),
    ],
)  # fmt: skip
def test_what_would_have_no_effect_is_refused(
    bases: Bases, tmp_path: Path, given: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        script(RewardTrainer, bases(), tmp_path, **given)
