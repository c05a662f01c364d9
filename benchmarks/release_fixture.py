"""Makes the run that stands for this release in the tests of later ones: `python benchmarks/release_fixture.py`.

It writes tests/saved/releases/<version>/: a run of the sandbox with a reward model and a policy, and their answers.
A folder that is there is left alone: a release is made once.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

from rlhf_plugins import load_policy, load_reward_model, run_recipe

RELEASES = Path(__file__).parents[1] / "tests" / "saved" / "releases"
TRAINER = {"max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1}
RECIPE = {
    "base": "sandbox",
    "adapter": {"r": 1, "target_modules": ["o_proj"]},
    "data": {"format": "sandbox", "prompts": 16, "test_prompts": 8},
    "stages": [
        {"stage": "reward_model", "trainer": TRAINER},
        {"stage": "preference", "name": "dpo", "trainer": TRAINER},
        {"stage": "evaluate", "prompts": 4, "best_of": 2, "ceiling": 2, "max_new_tokens": 8},
    ],
}
PROMPTS, RESPONSES = ["what is red ?", "who sings ?"], ["a rose .", "the bird ."]
LEFT_OUT = ("report.html", "reference.sqlite")  # large, and made again


def main() -> None:
    """Raises RunError where the release has been made."""
    folder = RELEASES / version("rlhf-plugins")
    run_recipe({**RECIPE, "output_dir": str(folder)})
    with load_policy(folder) as policy:
        samples = policy.sample(PROMPTS, temperature=0.0, max_new_tokens=8, seed=0)
        known = policy.log_probs(policy.encode(PROMPTS, RESPONSES)).sum(1).tolist()
    model = load_reward_model(folder)
    rewards = model.predict(model.encode(PROMPTS, RESPONSES)).reward.tolist()
    answers = {"responses": list(samples.responses), "log_probs": known, "rewards": rewards}
    asked = {"prompts": PROMPTS, "given": RESPONSES}
    (folder / "answers.json").write_text(json.dumps({**asked, **answers}, indent=2) + "\n")
    for file in (file for name in LEFT_OUT for file in folder.rglob(name)):
        file.unlink()
    print(f"{folder}: {sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()):,} bytes")


if __name__ == "__main__":
    sys.exit(main())
