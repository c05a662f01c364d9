"""Damaged files of a run, a model and a fault are one sentence, whatever they hold; what was tried is printed."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from marks import slow

from rlhf_plugins import load_policy, load_reward_model, open_run, run_recipe
from rlhf_plugins.contract.records import MemberScores
from rlhf_plugins.errors import ComponentError, RlhfError
from rlhf_plugins.registry.registry import Registry
from rlhf_plugins.run.replay import replay, save
from rlhf_plugins.testing import tiny_base

RECIPE = """\
base: base
adapter: {r: 2, target_modules: [q_proj]}
data: {format: preference, source: pairs.jsonl}
output_dir: out
stages:
  - {stage: reward_model, trainer: {max_steps: 1}}
  - {stage: preference, trainer: {max_steps: 1}}
"""
BROKEN = """\
from dataclasses import dataclass
from rlhf_plugins import Aggregation, hookimpl
@dataclass(frozen=True)
class Broken(Aggregation):
    scale: float = 2.0
    def __call__(self, scores): return 1 / 0
@hookimpl
def register_aggregation(): return {"broken": Broken}
"""
ODD: list[Any] = [None, 1, True, "x", [], {}, [1], {"a": 1}, 1e400, "\u202e", "a" * 5000, "run:../..", {"use": 3}]
WHOLE = [b"", b"\xff\xfe\x00", b"[" * 100_000, b"[]", b"null", b"1", b'"x"', b"{}"]
EACH = 1  # odd values in each place


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys of every value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*above, key)
        yield from places(one, (*above, key))


def damaged(text: str) -> Iterator[bytes]:
    """The file in many broken forms."""
    yield from (*WHOLE, text[: len(text) // 2].encode())
    draw, value = random.Random(0), json.loads(text)
    for *above, last in places(value):
        for odd in (*draw.sample(ODD, EACH), None):
            changed = here = copy.deepcopy(value)
            for key in above:
                here = here[key]
            if odd is None:
                del here[last]
            else:
                here[last] = odd
            yield json.dumps(changed).encode()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, copies of its models elsewhere, and a saved fault."""
    folder = tmp_path_factory.mktemp("damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tiny_base(folder / "base")
        rows = [{"prompt": f"p{i} ", "chosen": "ant", "rejected": "gas"} for i in range(20)]
        Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        Path("r.yaml").write_text(RECIPE)
        run_recipe("r.yaml", say=lambda _: None)
    for stage in ("01-reward_model", "02-preference"):
        shutil.copytree(folder / "out" / stage / "model", folder / stage)
    (folder / "mine.py").write_text(BROKEN)
    registry = Registry().with_files([folder / "mine.py"])
    broken: Any = registry.get("aggregation", "broken")
    with pytest.raises(ComponentError) as caught:
        broken()(MemberScores(torch.ones(3, 2), torch.ones(3), torch.zeros(2)))
    save(caught.value, folder / "fault", "then", [str(folder / "mine.py")], registry)
    return folder


def reported(folder: Path) -> None:
    record = open_run(folder)
    _ = record.finished, record.stages(), record.message, record.report


FILES: list[tuple[str, Callable[[Path], object]]] = [
    ("01-reward_model/reward_model.json", lambda folder: load_reward_model(folder / "01-reward_model")),
    ("01-reward_model/adapter_config.json", lambda folder: load_reward_model(folder / "01-reward_model")),
    ("01-reward_model/plugins.json", lambda folder: load_reward_model(folder / "01-reward_model")),
    ("02-preference/policy.json", lambda folder: load_policy(folder / "02-preference")),
    ("02-preference/adapter_config.json", lambda folder: load_policy(folder / "02-preference")),
    ("out/01-reward_model/result.json", lambda folder: reported(folder / "out")),
    ("out/status.json", lambda folder: reported(folder / "out")),
    ("fault/fault.json", lambda folder: replay(folder / "fault/fault.json", Registry())),
]
LONG = {"01-reward_model/adapter_config.json", "02-preference/adapter_config.json", "out/01-reward_model/result.json"}


@pytest.mark.parametrize(
    ("name", "use"), [slow(case)[0] if case[0] in LONG else case for case in FILES], ids=[name for name, _ in FILES]
)
def test_a_damaged_file_is_one_sentence(name: str, use: Callable[[Path], object], made: Path) -> None:
    file = made / name
    whole, tried, refused = file.read_text(), 0, list[str]()
    use(made)
    for tried, content in enumerate(damaged(whole), start=1):  # noqa: B007 (printed)
        file.write_bytes(content)
        try:
            use(made)
        except RlhfError as error:
            refused.append(str(error))
    file.write_text(whole)
    print(f"{name}: {tried} damaged files, {len(refused)} refused, no traceback")
    assert len(refused) >= len(WHOLE)
    assert [message for message in refused if not message or "\n" in message] == []
