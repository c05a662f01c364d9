"""Liger's own kernels, where the package is installed: Triton's interpreter computes them on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("liger_interpreted.py")


@pytest.mark.skipif(not (find_spec("liger_kernel") and find_spec("triton")), reason="liger-kernel is not installed")
def test_its_kernels_are_as_near_to_exact_numbers_as_the_models_blocks() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(done.stdout.splitlines()[-1])
    for parts in found.values():
        assert parts["block"]["trials"]["gated blocks in half precision"]
        assert all(parts["block"]["trials"]["gated blocks in half precision"])
        for part, more, most in (("block", 1.02, 2**-9), ("kernel", 1.5, 2**-21)):
            for ours, theirs in zip(parts[part]["ours"], parts[part]["theirs"], strict=True):
                assert ours < more * theirs < most
        result = 3 * 5 * 40 * 2  # its kernels make that alone, and gradients take the place of gate and up
        assert parts["forecast"]["ours"] == parts["forecast"]["theirs"] == [[result, -1], [0, 0, 1]]
