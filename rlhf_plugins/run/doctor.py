"""What this machine has for a run, and the command that brings what it lacks. It changes nothing.

A check tries what it speaks of: a package is imported, a tensor quantized, a font looked up.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from rlhf_plugins import report
from rlhf_plugins.registry.discovery import DISTRIBUTION
from rlhf_plugins.registry.registry import commands, registry

State = Literal["ok", "missing", "warning", "note"]
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
NVIDIA = Path("/proc/driver/nvidia/version")  # there where the kernel drives a GPU of NVIDIA
MODULES = {"scikit-learn": "sklearn", "pyyaml": "yaml"}  # where the module has another name than the distribution
LITTLE = 5 * 2**30  # bytes of disk


@dataclass(frozen=True)
class Check:
    """One finding; only `missing` keeps a run from working.

    Args:
        state: what it means.
        what: was looked at.
        found: there.
        cure: the command or step that helps; empty where nothing is to be done.
    """

    state: State
    what: str
    found: str
    cure: str = ""

    def __str__(self) -> str:
        cure = f"\n{'':<26}{self.cure}" if self.cure else ""
        return f"{self.state:<8} {self.what:<16} {self.found}{cure}"


def examine() -> list[Check]:
    """Every finding: machine, packages, GPU, quantization, fonts, plugins, trackers, disk."""
    parts: tuple[Callable[[], Iterator[Check]], ...] = (_machine, _packages, _gpu, _quantization, _fonts, _plugins)
    return [check for part in (*parts, _trackers, _disk) for check in part()]


def _machine() -> Iterator[Check]:
    found, versions = report.hardware(), report.versions()
    yield Check("note", "machine", f"{found.cpu}, {found.cores} cores, {found.memory_bytes / 2**30:.0f} GiB memory")
    yield Check("note", "python", f"{versions['python']} on {found.platform}")


def _packages() -> Iterator[Check]:
    """What our distribution requires, each imported."""
    yield Check("ok", DISTRIBUTION, version(DISTRIBUTION))
    for text in requires(DISTRIBUTION) or []:
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            yield package(needed)


def package(needed: Requirement) -> Check:
    """Whether a distribution is installed, in a version that serves, and can be imported."""
    asked = f"{needed.name}{needed.specifier}"
    cure = f'pip install "{asked}"'
    try:
        have = version(needed.name)
    except PackageNotFoundError:
        return Check("missing", needed.name, "not installed", cure)
    if not needed.specifier.contains(have, prereleases=True):
        return Check("missing", needed.name, f"{have}, and {needed.specifier} is needed", cure)
    try:
        import_module(MODULES.get(needed.name, needed.name.replace("-", "_")))
    except Exception as error:  # a broken wheel may raise anything
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        again = f'pip install --force-reinstall --no-deps "{asked}"'
        return Check("missing", needed.name, f"{have} cannot be imported: {what}", again)
    return Check("ok", needed.name, have)


def _gpu() -> Iterator[Check]:
    try:
        import torch
    except Exception:  # said above
        return
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            precise = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
            size = f"{about.total_memory / 2**30:.0f} GiB"
            yield Check("ok", f"gpu {number}", f"{about.name}, {size}, CUDA {torch.version.cuda}, {precise}")
    elif not NVIDIA.exists():
        yield Check("note", "gpu", "none: models train on the CPU")
    elif torch.version.cuda is None:
        wheel = "install a wheel of torch with CUDA: https://pytorch.org/get-started/locally"
        yield Check("warning", "gpu", f"there is one, and torch {torch.__version__} is built for CPUs", wheel)
    else:
        why = f"there is one, and torch (CUDA {torch.version.cuda}) cannot use it"
        yield Check("warning", "gpu", why, "nvidia-smi  # says which CUDA the driver takes")


def _quantization() -> Iterator[Check]:
    """A tensor in nf4 and back, on the device that models would be on."""
    try:
        import torch
        from bitsandbytes import functional

        device = "cuda" if torch.cuda.is_available() else "cpu"
        functional.dequantize_4bit(*functional.quantize_4bit(torch.ones(64, 64, device=device), quant_type="nf4"))
    except Exception as error:  # a library of CUDA may be missing
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        yield Check("warning", "nf4 and int8", f"do not work here: {what}", "python -m bitsandbytes  # says more")
        return
    yield Check("ok", "nf4 and int8", f"work on {device}")


def _fonts() -> Iterator[Check]:
    """The font with which plots are laid out."""
    try:
        from matplotlib import font_manager

        font_manager.findfont("DejaVu Sans", fallback_to_default=False)
    except Exception as error:
        what = str(error).strip().splitlines()[0]
        yield Check("warning", "fonts", what, "pip install --force-reinstall --no-deps matplotlib")
        return
    yield Check("ok", "fonts", "DejaVu Sans, for the plots of reports")


def _plugins() -> Iterator[Check]:
    """What did not load of components and commands."""
    left_out = [one for each in (registry(), commands()) for one in each.unloaded]
    for one in left_out:
        name = one.plugin.name
        broken = one.status == "broken"
        cure = f"fix or uninstall {one.plugin.distribution}, or: rlhf plugins disable {name}"
        state: State = "warning" if broken else "note"
        yield Check(state, f"plugin {name}", str(one), cure if broken else f"rlhf plugins enable {name}")
    distributions = {plugin.distribution for plugin in registry().plugins}
    yield Check("ok", "plugins", ", ".join(sorted(distributions)))


def _trackers() -> Iterator[Check]:
    for name in TRACKERS:
        try:
            yield Check("ok", name, f"{version(name)}, for report_to")
        except PackageNotFoundError:
            yield Check("note", name, "not installed; only `report_to` needs it", f"pip install {name}")


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(Path()).free
    message = f"{free / 2**30:.0f} GiB free here"
    yield (
        Check("warning", "disk", message, "run in a folder on a larger disk")
        if free < LITTLE
        else Check("ok", "disk", message)
    )
    if not os.access(Path(), os.W_OK):
        yield Check(
            "warning", "folder", f"{Path().resolve()} cannot be written", "run elsewhere, or give output_dir=..."
        )
