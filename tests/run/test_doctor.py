"""Each finding names what is there, and the command that brings what is not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from rlhf_plugins.registry.registry import Plugin, Unloaded
from rlhf_plugins.run import doctor
from rlhf_plugins.run.doctor import Check, examine, package


def test_this_machine_has_what_a_run_needs() -> None:
    found = {check.what: check.state for check in examine()}
    assert "missing" not in found.values()
    assert {name: found[name] for name in ("torch", "trl", "peft", "fonts", "plugins")} == dict.fromkeys(
        ("torch", "trl", "peft", "fonts", "plugins"), "ok"
    )


ABSENT = [
    ("no-such-package>=1", "not installed", 'pip install "no-such-package>=1"'),
    ("numpy<1", "and <1 is needed", 'pip install "numpy<1"'),
]


@pytest.mark.parametrize(("asked", "found", "cure"), ABSENT)
def test_a_package_that_does_not_serve_has_a_cure(asked: str, found: str, cure: str) -> None:
    check = package(Requirement(asked))
    assert (check.state, check.cure) == ("missing", cure)
    assert check.found.endswith(found)


def test_a_package_that_does_not_import_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError("libcudart.so.12: cannot open shared object file\nmore")

    monkeypatch.setattr(doctor, "import_module", broken)
    check = package(Requirement("torch>=2.6"))
    assert (check.state, check.cure) == ("missing", 'pip install --force-reinstall --no-deps "torch>=2.6"')
    assert check.found.endswith("cannot be imported: libcudart.so.12: cannot open shared object file")


def test_a_gpu_that_torch_cannot_use_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setattr(doctor, "NVIDIA", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    (check,) = doctor._gpu()
    assert check.state == "warning"
    assert "is built for CPUs" in check.found


def test_a_broken_plugin_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = Unloaded(Plugin("mine", "rlhf-mine", "0.1"), "broken", "ImportError: no")
    monkeypatch.setattr(doctor, "commands", lambda: SimpleNamespace(unloaded=[left_out]))
    found = next(check for check in doctor._plugins() if check.what == "plugin mine")
    assert (found.state, found.cure) == ("warning", "fix or uninstall rlhf-mine, or: rlhf plugins disable mine")


def test_a_finding_is_printed_with_its_cure_below() -> None:
    assert str(Check("ok", "torch", "2.6")) == "ok       torch            2.6"
    assert str(Check("missing", "trl", "no", "pip install trl")).splitlines()[1].strip() == "pip install trl"
