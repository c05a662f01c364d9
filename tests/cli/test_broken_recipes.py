"""Every broken recipe gets a message with file and line, exit code 2, no traceback, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Rlhf = Callable[..., Result]

TOP = "base: sandbox\ndata: {format: sandbox, prompts: 8}\n"
STAGES = "stages:\n- {stage: reward}\n- {stage: online}\n"
REFUSED = "4: stages.0.trainer: OnlineConfig refuses these options: "


def stage(block: str) -> str:
    """A recipe whose one stage is on line 4."""
    return f"{TOP}stages:\n- {block}\n"


BROKEN = {
    # YAML
    "empty": ("", "1: is empty"),
    "a list": ("- base\n", "1: should be a mapping"),
    "not UTF-8": (b"base: sandbox\ndata: \xe9\n", "2: is not UTF-8 text: byte 0xe9"),
    "a tab": (f"{TOP}stages:\n\t- reward\n", "4: is indented with a tab"),
    "a key twice": (f"{TOP}seed: 1\n{STAGES}seed: 2\n", "7: key 'seed' is written twice: on line 3 and on line 7"),
    "a bracket left open": (f"{TOP}stages: [reward\n", "4: is not YAML"),
    "two documents": (f"{TOP}{STAGES}---\n{TOP}", "6: holds a second YAML document"),
    "a python tag": (f"{TOP}stages: !!python/name:os.system\n", "3: unknown tag"),
    "a bomb": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n",
        "4: holds more than 10,000 values",
    ),
    "recursion": (f"{TOP}stages: &s [*s]\n", "3: an alias is inside the value that it names"),
    # the top
    "no base": (f"data: sandbox\n{STAGES}", "1: base: is required"),
    "no data": (
        f"base: sandbox\n{STAGES}",
        "1: data: is required: ",
    ),
    "no stages": (TOP, "1: stages: is required"),
    "stages without one": (f"{TOP}stages: []\n", "3: stages: needs at least one stage"),
    "stages as a mapping": (f"{TOP}stages: {{stage: reward}}\n", "3: stages: should be a list, got a mapping"),
    "a misspelt key": (f"{TOP}{STAGES}output_dri: x\n", "6: output_dri: unknown option (did you mean output_dir?"),
    "a list for a mapping": (
        f"{TOP}{STAGES}adapter: [16]\n",
        "6: adapter: should be a mapping of options or `none`, got a list; write for example {r: 16}",
    ),
    "text for a mapping": (
        f"{TOP}{STAGES}checkpoint: 10 steps\n",
        "6: checkpoint: should be a mapping of options or `none`, got text; write {every: 10 steps}",
    ),
    "a misspelt adapter option": (
        f"{TOP}{STAGES}adapter: {{lora_alfa: 1}}\n",
        "6: adapter.lora_alfa: unknown option (did you mean lora_alpha?",
    ),
    "a bool for a number": (f"{TOP}{STAGES}adapter: {{r: true}}\n", "6: adapter.r: should be int, got true"),
    "a number for a bool": (f"{TOP}{STAGES}trust_remote_code: 1\n", "6: trust_remote_code: should be bool, got 1"),
    "a seed below 0": (f"{TOP}{STAGES}seed: -1\n", "6: seed: should be greater than or equal to 0, got -1"),
    "a seed of text": (f"{TOP}{STAGES}seed: lucky\n", "6: seed: should be a valid integer"),
    "a misspelt quantization": (
        f"{TOP}{STAGES}quantization: nf5\n",
        "6: quantization: unknown value 'nf5' (did you mean nf4?",
    ),
    "quantization without adapter": (
        f"{TOP}{STAGES}quantization: nf4\nadapter: none\n",
        "6: quantization: needs an adapter",
    ),
    "no such base": (f"base: ./nowhere\ndata: sandbox\n{STAGES}", "1: base: no folder './nowhere'"),
    "a base of numbers": (f"base: 3\ndata: sandbox\n{STAGES}", "1: base: should be a valid string, got 3"),
    # data
    "an unknown format": (
        f"base: sandbox\ndata: sandbx\n{STAGES}",
        "2: data: unknown data_format 'sandbx' (did you mean sandbox?",
    ),
    "a format without its name": (
        f"base: sandbox\ndata: {{prompts: 3}}\n{STAGES}",
        "2: data: needs `format: <name of a data_format>`",
    ),
    "a required option": (f"base: sandbox\ndata: preference\n{STAGES}", "2: data.source: is required"),
    "a misspelt data option": (
        f"base: sandbox\ndata: {{format: sandbox, promts: 3}}\n{STAGES}",
        "2: data.promts: unknown option (did you mean prompts?",
    ),
    "a misspelt annotator option": (
        f"base: sandbox\ndata: {{format: sandbox, annotator: {{abilty: 1}}}}\n{STAGES}",
        "2: data.annotator.abilty: unknown option (did you mean ability?",
    ),
    "a secret": (
        stage("{stage: sft, trainer: {hub_token: hf_x}}"),
        "4: stages.0.trainer.hub_token: is a secret, which a report would show; log in with `hf auth login`",
    ),
    "an option that nothing reads": (
        stage("{stage: reward, trainer: {pad_token: x}}"),
        "4: stages.0.trainer.pad_token: is set by the stage or not read; leave it out",
    ),
    "a temperature of 0": (
        stage("{stage: online, trainer: {temperature: 0}}"),
        "4: stages.0.trainer.temperature: should be greater than 0, got 0.0",
    ),
    "a rollout that groups do not fill": (
        stage("{stage: online, trainer: {per_device_train_batch_size: 6, num_generations: 4}}"),
        f"{REFUSED}a rollout has 6 responses (per_device_train_batch_size: 6, gradient_accumulation_steps: 1), which "
        "num_generations: 4 does not divide",
    ),
    "no group": (
        stage("{stage: online, trainer: {num_generations: null}}"),
        f"{REFUSED}num_generations: null; write 1 or more",
    ),
    "no steps": (
        stage("{stage: online, trainer: {steps_per_generation: 0}}"),
        "4: stages.0.trainer.steps_per_generation: should be greater than or equal to 1, got 0",
    ),
    "no room for a response": (
        stage("{stage: online, trainer: {max_completion_length: 0}}"),
        "4: stages.0.trainer.max_completion_length: should be greater than or equal to 1, got 0",
    ),
    "noise that moves ratios": (
        stage("{stage: online, trainer: {neftune_noise_alpha: 5.0}}"),
        "4: stages.0.trainer.neftune_noise_alpha: is read in transformers' own forward pass, and this stage always has",
    ),
    "a stop_kl below 0": (stage("{stage: online, stop_kl: -1}"), "4: stages.0.stop_kl: should be greater than 0"),
    "a value that nothing reads": (
        stage("{stage: online, advantage: rloo, value: {coef: 1}}"),
        "4: stages.0: value: the advantage reads no values",
    ),
    "a value that nothing reads, as it is by default": (
        stage("{stage: online, advantage: rloo, reward: length, value: {coef: 0.1}}"),
        "4: stages.0.value: the advantage reads no values, so nothing uses it; leave it out",
    ),
    "turns without an environment": (
        stage("{stage: online, turns: 3}"),
        "4: stages.0: turns: 2 or more go with an `environment`, which writes the others; write both or neither",
    ),
    "a discount of turns that are not": (
        stage("{stage: online, reward: gold, turn_discount: 0.5}"),
        "4: stages.0.turn_discount: there are no later turns without an `environment`; leave it out",
    ),
    "conversations with remax": (
        stage("{stage: online, environment: sandbox, turns: 2, advantage: remax}"),
        "4: stages.0: environment: does not go with an advantage that compares with a greedy response, as remax does; "
        "take another one",
    ),
    "exploration with top_k": (
        stage("{stage: online, exploration: {}, trainer: {top_k: 5}}"),
        "4: stages.0: exploration: with trainer.top_k something else is sampled",
    ),
    "a text that ends responses": (
        stage("{stage: online, trainer: {generation_kwargs: {stop_strings: [x]}}}"),
        "4: stages.0: trainer.generation_kwargs: stop_strings ends responses with a text",
    ),
    "two temperatures": (
        stage("{stage: online, trainer: {generation_kwargs: {temperature: 0.5}}}"),
        "4: stages.0: trainer.generation_kwargs: a temperature of 0.5 would sample from another policy",
    ),
    "a value's adapter without one": (
        stage("{stage: online, reward: gold, value: {adapter: {}}}") + "adapter: none\n",
        "4: stages.0: value.adapter: needs the recipe's `adapter`",
    ),
    "dropout online": (
        stage("{stage: online, reward: gold}") + "adapter: {lora_dropout: 0.1}\n",
        "4: stages.0: adapter.lora_dropout: 0.1, but ratios must start at 1",
    ),
    # stages and their components
    "an unknown stage": (
        stage("{stage: prefrence}"),
        "4: stages.0: unknown stage 'prefrence' (did you mean preference?",
    ),
    "a stage without its name": (stage("{loss: dpo}"), "4: stages.0: needs `stage: <name of a stage>`"),
    "a stage of numbers": (stage("3"), "4: stages.0: should be the name of a stage"),
    "a misspelt stage option": (
        stage("{stage: reward, pool: mean}"),
        "4: stages.0.pool: unknown option (did you mean pooling?",
    ),
    "an unknown loss": (
        stage("{stage: preference, loss: dop}"),
        "4: stages.0.loss: unknown preference_loss 'dop' (did you mean dpo?",
    ),
    "an unknown pooling": (
        stage("{stage: reward, pooling: {use: las_token}}"),
        "4: stages.0.pooling: unknown pooling 'las_token' (did you mean last_token?",
    ),
    "a loss of another kind": (stage("{stage: reward, loss: dpo}"), "4: stages.0.loss: unknown reward_loss 'dpo'"),
    "a misspelt component option": (
        stage("{stage: preference, loss: {use: dpo, bta: 1}}"),
        "4: stages.0.loss.bta: unknown option (did you mean beta?",
    ),
    "a component option out of range": (
        stage("{stage: online, advantage: {use: gae, lam: 2}}"),
        "4: stages.0.advantage.lam: should be less than or equal to 1, got 2",
    ),
    "a misspelt block option": (
        stage("{stage: online, kl: {koef: 1}}"),
        "4: stages.0.kl.koef: unknown option (did you mean coef?",
    ),
    "not a number": (stage("{stage: online, kl: {coef: .nan}}"), "4: stages.0.kl.coef: "),
    "infinity": (stage("{stage: online, kl: {coef: .inf}}"), "4: stages.0.kl.coef: should be a finite number, got inf"),
    "an unknown metric": (
        stage("{stage: evaluate, metrics: [accuracy, eec]}"),
        "4: stages.0.metrics.1: unknown metric 'eec'",
    ),
    "two stages of one name": (
        f"{TOP}stages:\n- sft\n- sft\n",
        "5: stages.1: also stages.0 is called 'sft'; give one of them a `name:`",
    ),
    "a name that leaves the folder": (
        stage("{stage: sft, name: ../../x}"),
        "4: stages.0: the name '../../x' cannot name a folder",
    ),
    # what goes to TRL
    "an unknown trainer option": (
        stage("{stage: sft, trainer: {max_stepz: 3}}"),
        "4: stages.0.trainer.max_stepz: unknown option of trl.SFTConfig (did you mean max_steps",
    ),
    "a trainer option that the stage sets": (
        stage("{stage: sft, trainer: {seed: 3}}"),
        "4: stages.0.trainer.seed: is set by the stage itself; write `seed:` at the top of the recipe",
    ),
    "a checkpoint to go on from": (
        stage("{stage: sft, trainer: {resume_from_checkpoint: old}}"),
        "4: stages.0.trainer.resume_from_checkpoint: is not read; say `rlhf run --resume`",
    ),
    "a trainer option of the wrong type": (
        stage("{stage: sft, trainer: {max_steps: many}}"),
        "4: stages.0.trainer.max_steps: should be a valid integer",
    ),
    "a trainer option that TRL refuses": (
        stage("{stage: sft, trainer: {load_best_model_at_end: true}}"),
        "4: stages.0.trainer: trl.SFTConfig refuses these options: --load_best_model_at_end requires",
    ),
    "a trainer of text": (
        stage("{stage: sft, trainer: fast}"),
        "4: stages.0.trainer: should be a mapping of options of trl.SFTConfig, got text",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_recipe_is_explained_and_nothing_is_written(case: str, rlhf: Rlhf) -> None:
    content, message = BROKEN[case]
    Path("r.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    result = rlhf("run", "r.yaml")
    assert result.exit_code == 2, result.output
    assert f"r.yaml:{message}" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["r.yaml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml:1: no such file, nor a bundled recipe of that name"),
        (["r.yaml", "base=sandbx"], "base: there is no folder 'sandbx' (did you mean sandbox?)"),
        (["r.yaml", "data={format: preference, source: none.jsonl}", "stages=[sfft]"], "there is no file 'none.jsonl'"),
        (["quickstrat"], "quickstrat:1: no such file, nor a bundled recipe of that name"),
        (["."], ".:1: cannot be read: Is a directory"),
        (["r.yaml", "sed=1"], "sed=1 (command line): sed: unknown option (did you mean seed?"),
        (["r.yaml", "--resume"], "runs/r holds no run to resume"),
        (["r.yaml", "--resume", "--overwrite"], "give one of them"),
        (["r.yaml", "data={format: preference, source: none.jsonl}"], "none.jsonl"),
    ],
)
def test_a_broken_command_is_explained_and_nothing_is_written(words: list[str], message: str, rlhf: Rlhf) -> None:
    Path("r.yaml").write_text(f"{TOP}stages: [sft]\n")
    result = rlhf("run", *words)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert [path.name for path in Path().iterdir()] == ["r.yaml"]


def test_check_names_all_faults(rlhf: Rlhf) -> None:
    Path("r.yaml").write_text("base: sandbox\nsede: 1\ndata: sandbox\nstages: [rewrd, sft]\n")
    result = rlhf("check", "r.yaml")
    assert result.exit_code == 2
    assert [line.split(": ")[0:2] for line in result.stderr.splitlines()] == [
        ["r.yaml:2", "sede"],
        ["r.yaml:4", "stages.0"],
    ]
