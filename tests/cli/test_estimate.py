"""`rlhf estimate` prints bytes for other programs, lines for people, and fails where the card is too small."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from rlhf_plugins.forecast import cards
from rlhf_plugins.forecast.cards import Card
from rlhf_plugins.forecast.forecast import CONTEXT, RESERVED

Rlhf = Callable[..., Result]
GIB = 2**30
RECIPE = {
    "base": "sandbox",
    "data": "sandbox",
    "stages": [{"stage": "preference", "name": "dpo", "trainer": {"max_length": 64}}],
}
# which a check lets through, and loading does not
WITHOUT_TOPIC = {"format": "preference", "source": "rows.jsonl", "hold_out": "topic"}


@pytest.mark.slow
def test_json_holds_bytes_by_consumer(rlhf: Rlhf) -> None:
    Path("r.yaml").write_text(json.dumps(RECIPE))
    done = rlhf("estimate", "r.yaml", "--gpu", "8GB", "--json")
    found = json.loads(done.stdout)
    (stage,) = found["stages"]
    assert (done.exit_code, found["card_bytes"], stage["name"]) == (0, 8 * GIB, "dpo")
    assert set(stage) == {"name", "peak_bytes", "allocated_bytes", "consumers", "fits", "uncertain", "assumed"}
    assert sum(stage["consumers"].values()) == stage["allocated_bytes"]
    assert stage["peak_bytes"] == round(stage["allocated_bytes"] * RESERVED) + CONTEXT
    assert (stage["fits"], stage["uncertain"]) == (True, False)


def test_without_a_gpu_the_parts_of_a_peak_are_its_sum(rlhf: Rlhf, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("r.yaml").write_text(json.dumps(RECIPE))
    monkeypatch.setattr(cards, "present", lambda: None)
    line = rlhf("estimate", "r.yaml").stdout.splitlines()[0]
    numbers = re.fullmatch(r"dpo: no card given, peak (\d+) MiB: (\d+) MiB in .* and (\d+) MiB of CUDA and .*", line)
    assert numbers is not None
    peak, *parts = map(int, numbers.groups())
    assert peak == pytest.approx(sum(parts), abs=1)


def test_a_card_that_is_too_small_is_exit_code_1(rlhf: Rlhf) -> None:
    Path("r.yaml").write_text(json.dumps(RECIPE))
    done = rlhf("estimate", "r.yaml", "--gpu", "512MiB")
    assert done.exit_code == 1
    assert "dpo: does not fit on 512MiB (512 MiB), peak" in done.stdout
    assert "no change of its options fits: it needs a card such as" in done.stdout
    assert "train " in done.stdout


def test_a_card_is_refused_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys\nfrom rlhf_plugins.cli.app import app\n"
        "app(['estimate', 'no.yaml', '--gpu', 'rtx490'], standalone_mode=False)"
    )
    ends = (
        "import atexit, sys; atexit.register(lambda: print({'torch', 'yaml'} & sys.modules.keys(), file=sys.stderr))\n"
    )
    done = subprocess.run([sys.executable, "-c", ends + code], capture_output=True, text=True)
    assert "unknown GPU 'rtx490'" in done.stderr + done.stdout
    assert done.stderr.splitlines()[-1] == "set()"


def test_fit_changes_nothing_without_a_gpu_and_says_so(rlhf: Rlhf, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("r.yaml").write_text(json.dumps({**RECIPE, "stages": []}))
    monkeypatch.setattr(cards, "present", lambda: None)
    assert "--fit: there is no GPU here, so nothing is changed" in rlhf("run", "r.yaml", "--fit").stdout


def test_a_run_forecasts_first(rlhf: Rlhf, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("r.yaml").write_text(json.dumps({**RECIPE, "data": WITHOUT_TOPIC}))
    Path("rows.jsonl").write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}))
    monkeypatch.setattr(cards, "present", lambda: Card("small", 512 * 2**20))
    assert "warning: stage dpo may need" in rlhf("run", "r.yaml").stdout


def test_fit_says_which_stage_it_cannot_make_fit(rlhf: Rlhf, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("r.yaml").write_text(json.dumps({**RECIPE, "data": WITHOUT_TOPIC}))
    Path("rows.jsonl").write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}))
    monkeypatch.setattr(cards, "present", lambda: Card("small", 512 * 2**20))
    said = rlhf("run", "r.yaml", "--fit").stdout
    assert "--fit: nothing that leaves the batch the same makes stage dpo fit; see rlhf estimate" in said
    assert "--fit makes it fit" not in said


def test_json_holds_the_overrides_of_fit_alone(rlhf: Rlhf) -> None:
    Path("r.yaml").write_text(json.dumps(RECIPE))
    seed = rlhf("estimate", "r.yaml", "seed=1", "--gpu", "8GB", "--json", "--fit")
    assert json.loads(seed.stdout)["overrides"] == ["seed=1"]


@pytest.mark.slow
def test_of_a_sweep_the_setting_that_needs_most_is_shown(rlhf: Rlhf) -> None:
    sweep = {"stages.dpo.trainer.per_device_train_batch_size": [1, 64, 2], "stages.dpo.loss.beta": [0.1]}
    Path("r.yaml").write_text(json.dumps({**RECIPE, "sweep": sweep, "seeds": [0, 1]}))
    said = rlhf("estimate", "r.yaml", "--gpu", "8GB").stdout
    first = "of the sweep the setting that needs most: per_device_train_batch_size 64, beta 0.1"
    assert said.startswith(f"{first}\ndpo: fits")
    found = json.loads(rlhf("estimate", "r.yaml", "--gpu", "8GB", "--json").stdout)
    alone = ["seeds=[]", "sweep={}", "stages.dpo.trainer.per_device_train_batch_size=64"]
    assert found["stages"] == json.loads(rlhf("estimate", "r.yaml", *alone, "--gpu", "8GB", "--json").stdout)["stages"]
