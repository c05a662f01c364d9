"""Which plugin files that a recipe names may run: those with a digest that the user agreed to. It runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from rlhf_plugins.errors import PluginError
from rlhf_plugins.registry.discovery import disabled_file

TRUST = "--trust-plugins"


def trusted_file() -> Path:
    """The user's list of digests, a file a line; it need not exist."""
    return disabled_file().with_name("trusted-files.txt")


def ask(files: Sequence[Path], trust: bool, agreed: Callable[[str], bool] | None, who: str) -> None:
    """Remembers the files that the user trusts.

    Args:
        files: the files of plugins; one that cannot be read is left to those who load it.
        trust: whether the user trusts all of them.
        agreed: asks the user; None where nobody can be asked.
        who: what names the files, such as a recipe.

    Raises:
        PluginError: the user does not trust a file.
    """
    known = _known()
    for file in files:
        if (digest := _digest(file)) is None or digest in known:
            continue
        what = f"{who} names code that would run: {file} (sha256 {digest[:12]})"
        if not trust and not (agreed is not None and agreed(f"{what}. Run it?")):
            raise PluginError(f"{what}; read it, then add {TRUST}")
        _remember(digest, file)


def _digest(file: Path) -> str | None:
    try:
        return sha256(file.read_bytes()).hexdigest() if file.is_file() else None
    except (OSError, ValueError):
        return None


def _known() -> set[str]:
    try:
        return {line.split()[0] for line in trusted_file().read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, ValueError):
        return set()


def _remember(digest: str, file: Path) -> None:
    with suppress(OSError):  # it will be asked again
        trusted_file().parent.mkdir(parents=True, exist_ok=True)
        with trusted_file().open("a", encoding="utf-8") as stream:
            stream.write(f"{digest} {ascii(str(file))}\n")
