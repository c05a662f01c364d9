"""A base that is another run's policy: what it means, and what is said where it is not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.base_policy import is_policy, weights


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of `sft` and `dpo`, both adapters of rank 4 on `owner/model`."""
    root = tmp_path / "runs" / "a"
    for number, name in enumerate(("sft", "dpo"), 1):
        folder = root / f"{number:02d}-{name}"
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "adapter_config.json").write_text("{}")
        base = {"path": "owner/model", "quantization": "nf4", "adapter": {"r": 4}}
        (folder / "model" / "policy.json").write_text(json.dumps({"base": base}))
        spec = {"use": "trained", "path": f"run:{number:02d}-{name}/model"}
        (folder / "result.json").write_text(json.dumps({"name": name, "policies": {name: spec}}))
    for file in ("recipe.yaml", "status.json"):
        (root / file).touch()
    return root


@pytest.mark.parametrize(("words", "folder"), [("", "02-dpo"), ("#sft", "01-sft"), ("#dpo/dpo", "02-dpo")])
def test_a_stage_of_a_run_is_its_adapter_on_its_base(run: Path, words: str, folder: str) -> None:
    found = weights(Base(f"{run}{words}", adapter=Adapter()))
    assert (found.name, found.folder) == ("base", run / folder / "model")
    assert found.base == Base("owner/model", "nf4", Adapter(r=4))


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ("{run}#dp", {}, r"made a policy 'dp' \(did you mean dpo\? known: dpo, sft\)"),
        ("{run}#", {}, r"made a policy '' \(known: dpo, sft\)"),
        ("{run}#base", {}, "#base: is the base of that run, so write that one"),
        ("{run}b#dpo", {}, r"there is no folder '.*ab' \(did you mean .*/runs/a\?"),
        ("{run}/01-sft#dpo", {}, "01-sft' is no run, so it has no stage 'dpo'"),
        ("{run}", {"adapter": Adapter(r=8)}, "its adapter is trained further as it is, so leave `adapter` out"),
        ("{run}", {"adapter": None}, "its base is nf4, so that all weights cannot be trained"),
        ("{run}", {"quantization": "int8"}, "a base that is nf4, so leave `quantization` out"),
    ],
)
def test_what_cannot_be_a_base_is_one_line(run: Path, words: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        weights(Base(words.format(run=run), **{"adapter": Adapter(), **options}))


def test_a_base_of_an_adapter_that_is_gone_is_named(run: Path) -> None:
    file = run / "02-dpo" / "model" / "policy.json"
    file.write_text(file.read_text().replace("owner/model", "/gone/model"))
    with pytest.raises(
        RunError, match=r"#dpo: the base of its adapter is not here: no folder '/gone/model', and that is"
    ):
        weights(Base(f"{run}#dpo", adapter=Adapter()))


def test_a_stage_that_made_two_policies_is_asked_which(run: Path) -> None:
    specs = {name: {"use": "trained", "path": f"run:01-sft/{name}"} for name in ("x", "model")}
    (run / "03-both").mkdir()
    (run / "03-both" / "result.json").write_text(json.dumps({"name": "both", "policies": specs}))
    with pytest.raises(RunError, match="#both: that stage made several: give one of .*a#both/x, .*a#both/model"):
        weights(Base(f"{run}#both", adapter=Adapter()))
    assert weights(Base(f"{run}#both/model", adapter=Adapter())).folder == run / "01-sft" / "model"


def test_the_latest_policy_of_a_session_is_the_one_that_finished_last(run: Path) -> None:
    for number, name in enumerate(("sft", "dpo"), 1):  # whose names sort the other way
        part = (run / f"{number:02d}-{name}").rename(run / name)
        (part / "call.json").touch()
        text = (part / "result.json").read_text().replace(f"{number:02d}-", "")
        (part / "result.json").write_text(text)
        os.utime(part / "result.json", (number, number))
    assert weights(Base(str(run), adapter=Adapter())).folder == run / "dpo" / "model"


def test_a_hub_name_and_a_whole_model_are_no_policies(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert not is_policy("owner/model")
    assert not is_policy(str(tmp_path))
