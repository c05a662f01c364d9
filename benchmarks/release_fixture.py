"""Makes the run by which later releases are tested against this one: `python benchmarks/release_fixture.py`.

It writes tests/saved/releases/<version>/: a run of the sandbox with a reward model and a policy, and their answers.
A folder that is there is left alone: a release is made once.
"""

from __future__ import annotations

import json
from contextlib import chdir
from importlib.metadata import version
from pathlib import Path

from rlhf_plugins import load_policy, load_reward_model, run_recipe
from rlhf_plugins.data.digests import of_folder
from rlhf_plugins.data.file_names import FILES, RESULT
from rlhf_plugins.report import PAGE

RELEASES = Path("tests/saved/releases")
TRAINER = {"learning_rate": 1e-3, "max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1}
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
LEFT_OUT = (PAGE, "reference.sqlite", "README.md")  # large, and made again


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
    _made_elsewhere(folder)
    for file in (file for name in LEFT_OUT for file in folder.rglob(name)):
        file.unlink()
    print(f"{folder}: {sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()):,} bytes")


def _made_elsewhere(folder: Path) -> None:
    """Names a checkout that is not there, as a run from another machine does, and digests what was changed again."""
    for file in (file for file in folder.rglob("*") if file.suffix in (".json", ".md", ".yaml")):
        file.write_text(file.read_text().replace(str(Path.cwd()), "/elsewhere"))
    for result in folder.glob(f"*/{RESULT}"):
        result.write_text(json.dumps(json.loads(result.read_text()) | {FILES: of_folder(result.parent)}, indent=2))


if __name__ == "__main__":
    with chdir(Path(__file__).parents[1]):  # the run's paths are then those of any checkout
        main()
