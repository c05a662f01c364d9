"""The kit finds nothing in any component of ours, bundled or under `plugins/`.

What takes no training is tried here of the bundled ones alone: packages try their own, by their pyproject.toml.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from marks import slow

from rlhf_plugins.registry.registry import DISTRIBUTION, registry
from rlhf_plugins.testing import Subject, examine, properties_of, subjects

FUNCTIONS = Path(__file__).parent / "python_reward.py"
OPTIONS = {
    "aggregation.fixed": {"weights": [0.5, 0.3, 0.2]},
    "data_step.accepted": {"path": f"{FUNCTIONS}:short"},
    "environment.python": {"path": f"{FUNCTIONS}:reply"},
    "reward.python": {"path": f"{FUNCTIONS}:score"},
    "data_format.mix": {"parts": ["sandbox", "sandbox"]},
    "data_format.prepared": {"rows": "sandbox", "steps": ["prompt_rules"]},
    "generator.server": {"url": "http://localhost:1/v1", "model": "none"},
    "judge.server": {"url": "http://localhost:1/v1", "model": "none"},
}
PACKAGES = {  # with the options that each says to try its components with
    file.parent.name: tomllib.loads(file.read_text()).get("tool", {}).get("rlhf_plugins", {}).get("options", {})
    for file in sorted((Path(__file__).parents[2] / "plugins").glob("*/pyproject.toml"))
}
BUNDLED = list(subjects(DISTRIBUTION, OPTIONS))
LONG = {  # a second of its kind that trains or is made of others
    "data_format arithmetic",
    "metric pac_bayes",
    "reward by_token",
    "reward guided",
    "reward prefixes",
    "reward_loss multi_task_uncertainty",
    "stage label_check",
    "stage reward_ensemble",
}
OURS = [*BUNDLED, *(one for name, tried in PACKAGES.items() for one in subjects(name, tried))]


@pytest.mark.parametrize("subject", [slow(one)[0] if str(one) in LONG else one for one in BUNDLED], ids=str)
def test_every_property_holds_of_what_is_bundled(subject: Subject) -> None:
    found = [examine(subject, one) for one in properties_of(subject.kind) if not one.trains]
    assert not any(found), "\n".join(str(finding) for finding in found if finding)


@pytest.mark.slow
@pytest.mark.parametrize("subject", OURS, ids=str)
def test_every_option_of_ours_is_felt_in_a_training(subject: Subject) -> None:
    found = [examine(subject, one) for one in properties_of(subject.kind) if one.trains]
    assert not any(found), "\n".join(str(finding) for finding in found if finding)


def test_every_kind_is_tried_with_something_of_its_own() -> None:
    kinds = {component.kind for component in registry().describe()}
    assert all(len(properties_of(kind)) >= 5 for kind in kinds)
