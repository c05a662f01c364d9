"""The card of an exported model, filled in from its run: recipe, data, scores, versions, and code that runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from rlhf_plugins.errors import RunError
from rlhf_plugins.report.words import number, share
from rlhf_plugins.saved.run_reference import Made

if TYPE_CHECKING:
    from rlhf_plugins.engine.prompt_form import Prompted
    from rlhf_plugins.report.schema import Interval, Report

NAMED = {"gae": "ppo"}  # an algorithm by the component that makes it so, where the two have different names
DECIDING = ("loss", "advantage")  # options of a stage whose components name an algorithm
SHOWN = ("torch", "transformers", "trl", "peft", "rlhf-plugins")

CODE = {
    "model": """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")
{inputs}
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0], skip_special_tokens=True))
""",
    "adapter": """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model, tokenizer = AutoPeftModelForCausalLM.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")
{inputs}
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0], skip_special_tokens=True))
""",
    "classifier": """\
{auto}from transformers import AutoModelForSequenceClassification, AutoTokenizer

model, tokenizer = AutoModelForSequenceClassification.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")
{inputs}
print(model(**inputs).logits)
""",
}
MESSAGES = '[{"role": "user", "content": "Hello"}]'
ANSWERED = '[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]'


@dataclass(frozen=True)
class Form:
    """What was written, as far as the code of its card depends on it."""

    kind: Literal["model", "adapter", "classifier"]
    base: str
    chat: bool  # it has a chat template; `write_card` asks whether its training used that
    auto: bool = False  # it is opened after `import rlhf_plugins.auto`
    pairs: bool = False  # its tokenizer separates prompt and response
    ending: str = ""  # of every text that it was trained on

    def code(self, name: str) -> str:
        """Python that opens it from the folder above."""
        auto = "import rlhf_plugins.auto  # noqa: F401\n" if self.auto else ""
        inputs = self._judged() if self.kind == "classifier" else self._asked()
        return CODE[self.kind].format(name=name, inputs=inputs, auto=auto)

    def _asked(self) -> str:
        if self.chat:
            options = 'add_generation_prompt=True, return_dict=True, return_tensors="pt"'
            return f"inputs = tokenizer.apply_chat_template({MESSAGES}, {options})"
        asked = json.dumps(f"Hello{self.ending}")
        return f'inputs = tokenizer({asked}, return_tensors="pt", return_token_type_ids=False)'

    def _judged(self) -> str:
        """A response as the model was trained to read it; the template that is saved ends where a response does."""
        if self.pairs:
            return 'inputs = tokenizer("Hello", "Hi", return_tensors="pt")'
        options = 'return_tensors="pt", return_token_type_ids=False'
        if self.chat:
            return f'inputs = tokenizer.apply_chat_template({ANSWERED}, return_dict=True, return_tensors="pt")'
        read = json.dumps(f"Hello{self.ending or ' '}Hi")
        return f"inputs = tokenizer({read} + tokenizer.eos_token, {options})"


def write_card(found: Made, out: Path, form: Form, notes: Sequence[str] = ()) -> None:
    """Writes README.md. Raises RunError where it cannot be written."""
    stage, report, prompted = _stage(found), _report(found), found.prompted()
    if form.chat:
        notes = [*notes, *_rendering(prompted)]
        form = replace(form, chat=not prompted.as_text)
    form = replace(form, ending=prompted.ending)
    parts = [
        _head(found, form, stage),
        f"# {_title(found, out)}\n\n{_about(found, form, stage)}",
        *(f"{note}" for note in notes),
        f"## Use\n\n```python\n{form.code(out.name)}```\n\nRun it in the folder that holds `{out.name}`.",
        *_training(found, stage),
        *_scores(found, report),
        *_versions(found),
    ]
    try:
        (out / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error}") from error


def _rendering(prompted: Prompted) -> list[str]:
    """A sentence for a model with a chat template that did not render its training, or may not have."""
    if not prompted.forms:
        return ["No note says whether it was trained on text or messages; the code below assumes messages."]
    if not prompted.as_text:
        return []
    return ["Trained on text as it was, without the chat template that its tokenizer has: give it text."]


def algorithms(stage: Mapping[str, Any]) -> list[str]:
    """The tags of a stage of a resolved recipe: its kind, and the components that decide what it trains by."""
    used = [stage[name]["use"] for name in DECIDING if isinstance(stage.get(name), Mapping)]
    return list(dict.fromkeys([str(stage["stage"]), *(NAMED.get(name, name) for name in used)])) if stage else []


def _head(found: Made, form: Form, stage: Mapping[str, Any]) -> str:
    library = "peft" if form.kind == "adapter" else "transformers"
    task = "text-generation" if found.part == "policies" else "text-classification"
    kind: list[str] = [] if found.part == "policies" else ["reward-model"]
    lora: list[str] = ["lora"] if form.kind == "adapter" else []
    used = [name.replace("_", "-") for name in algorithms(stage)]
    tags: list[str] = ["rlhf-plugins", *kind, *used, *lora]
    values: dict[str, Any] = {"library_name": library, "pipeline_tag": task, "tags": list(dict.fromkeys(tags))}
    origin = str(found.run.recipe().get("base")) if found.run and _within(found, form) else form.base
    if "/" in origin and not Path(origin).is_dir():  # a hub name, which a folder of this machine is not
        values["base_model"] = origin
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def _within(found: Made, form: Form) -> bool:
    """Whether the base was made by the run itself."""
    return found.run is not None and Path(form.base).resolve().is_relative_to(found.run.path.resolve())


def _title(found: Made, out: Path) -> str:
    at = "" if found.step is None else f", step {found.step}"
    return f"{found.run.path.resolve().name}: {found.stage}{at}" if found.run else out.name


def _about(found: Made, form: Form, stage: Mapping[str, Any]) -> str:
    what = {"model": "A language model", "adapter": "A LoRA adapter", "classifier": "A reward model"}[form.kind]
    base = f"the folder `{Path(form.base).name}`" if Path(form.base).is_dir() else form.base
    if _within(found, form):
        base = "what an earlier stage of the run made"
    if not stage:
        return f"{what}, trained from {base}."
    how = ", ".join(f"`{name}`" for name in algorithms(stage))
    starts = [one.start for one in found.run.finished() if one.name == found.stage] if found.run else []
    after = "".join(f" It went on from the policy `{start}`." for start in starts if start)
    return f"{what}, trained from {base} by the stage `{found.stage}` ({how}) of a run of rlhf-plugins.{after}"


def _training(found: Made, stage: Mapping[str, Any]) -> list[str]:
    """The stage as the recipe has it, with every default, and the data."""
    if found.run is None:
        return []
    recipe = found.run.recipe()
    own = next((one.report.own_data for one in found.run.finished() if one.name == found.stage), None)
    counts: Mapping[str, Any] = own or found.run.status().get("data") or {}
    kept: dict[str, Any] = {
        name: recipe[name] for name in ("quantization", "adapter", "data", "seed") if name in recipe
    }
    kept["stages"] = [{**stage}]
    text = yaml.safe_dump(_without_folders(kept), sort_keys=False, allow_unicode=True)
    rows = f"{counts.get('train', 0)} groups of rows to train on, {counts.get('test', 0)} held out."
    return [f"## Training\n\n{rows}\n\n```yaml\n{text}```"]


def _without_folders(value: Any) -> Any:
    """The values of a recipe, in which a path from the root of this machine's file system is its last name alone."""
    if isinstance(value, Mapping):
        return {name: _without_folders(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(each) for each in value]
    local = isinstance(value, str) and "\n" not in value and Path(value).is_absolute()
    return Path(value).name or value if local else value


def _scores(found: Made, report: Report | None) -> list[str]:
    if report is None:
        return []
    rows = "" if found.step is not None else (_of_rewards if found.part == "rewards" else _of_policies)(found, report)
    return [f"## Scores\n\nIntervals are of 95%.\n\n{rows}"] if rows else ["## Scores\n\nIt was not evaluated."]


def _of_policies(found: Made, report: Report) -> str:
    """The policy beside the reference."""
    names = [name for name in (report.reference, found.name) if name in report.policies]
    if found.name not in names:
        return ""
    head = f"| policy | {report.score_name} | gain | win rate | KL | prompts |\n|---|---|---|---|---|---|\n"
    lines = []
    for name in dict.fromkeys(names):
        row = report.policies[str(name)]
        cells = (_interval(row.gold), _interval(row.gain), _interval(row.win_rate), number(row.kl, 2), str(row.n))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return head + "\n".join(lines)


def _of_rewards(found: Made, report: Report) -> str:
    from rlhf_plugins.data.stage_outputs import handed_on

    assert found.run is not None  # it has a report
    alone = len(handed_on(found.run.finished(), "rewards")) == 1
    row = report.reward_models.get(found.name) or (report.reward_model if alone else None)
    if row is None:
        return ""
    interval = row.accuracy_interval
    within = f" ({share(interval.low)} to {share(interval.high)})" if interval else ""
    longer = f"Always preferring the longer response: {share(row.longer_response_accuracy)}."
    return f"It orders {share(row.accuracy)}{within} of {row.n} held-out pairs as people did. {longer}"


def _interval(value: Interval | None) -> str:
    if value is None:
        return "-"
    within = f" ({number(value.low)} to {number(value.high)})" if value.low is not None else ""
    return f"{number(value.mean)}{within}"


def _versions(found: Made) -> list[str]:
    made_with = (found.run.status().get("versions") or {}) if found.run else {}
    named = ", ".join(f"{name} {made_with[name]}" for name in SHOWN if name in made_with)
    return [f"## Versions\n\n{named}"] if named else []


def _stage(found: Made) -> Mapping[str, Any]:
    """The stage as the resolved recipe has it; empty where no run is known, or for a part of a stage."""
    stages = found.run.recipe().get("stages", []) if found.run else []
    return next((one for one in stages if isinstance(one, Mapping) and one.get("name") == found.stage), {})


def _report(found: Made) -> Report | None:
    from rlhf_plugins.run.files import reporting

    try:
        return reporting.build(found.run) if found.run else None
    except RunError:  # what a run lacks of a report, its card lacks too
        return None
