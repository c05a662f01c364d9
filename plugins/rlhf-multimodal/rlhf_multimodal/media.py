"""What data formats of images and of recordings share: features that a frozen encoder computes once and keeps."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from os.path import abspath
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any, ClassVar

from pydantic import Field

from rlhf_plugins import Base, Data, DataError, DataFormat, Group, uses

FEATURES = "media_features"  # the column that heads read: vectors x width numbers
CAPTION = "caption"
TOGETHER = 128  # files in memory at once


@dataclass(frozen=True)
class WithMedia(DataFormat, like="rows"):
    """Other rows, with the column `media_features`: the features of the file that another column names.

    A frozen encoder reads each file once; with `cache`, once for all runs. The cache knows a file by its bytes and an
    encoder by its weights.
    """

    encoder: Any
    column: str
    called: ClassVar[str]  # its name in messages
    medium: ClassVar[str]

    rows: DataFormat = uses("data_format", tag="format")
    folder: Annotated[
        str | None, Field(description="that the files are relative to; null is where the run is started")
    ] = None
    cache: Annotated[str | None, Field(description="a folder for features; null computes them for each run")] = None
    captioned: Annotated[
        float, Field(ge=0, le=1, description="share of training rows with a caption in words in place of the file")
    ] = 0.0
    caption: Annotated[str, Field(min_length=1, description="the column with it")] = CAPTION

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError as the other format does, and where a file is missing or cannot be read."""
        data = self.rows.load(base, seed)
        judged = {name: getattr(data, name) for name in ("train", "test", "out_of_distribution")}
        every = [*(g for groups in judged.values() for g in groups), *(g for gs in data.prompts.values() for g in gs)]
        found = self._features({self._file(group) for group in every})

        def seen(groups: Sequence[Group]) -> tuple[Group, ...]:
            return tuple(replace(g, columns={**g.columns, FEATURES: found[self._file(g)]}) for g in groups)

        parts: dict[str, Any] = {name: seen(groups) for name, groups in judged.items()}
        draw = random.Random(seed)
        shown = (captioned(g, self.caption) if draw.random() < self.captioned else g for g in parts["train"])
        parts["train"] = tuple(shown)
        return replace(data, **parts, prompts={split: seen(groups) for split, groups in data.prompts.items()})

    def known_gold(self) -> bool | None:
        """Whether a gold reward comes with the rows of the other format; None is unknown."""
        return self.rows.known_gold()

    def known_columns(self) -> frozenset[str] | None:
        """Which of `COLUMNS` the rows of the other format have; None is unknown."""
        return self.rows.known_columns()

    def opened(self, file: Path) -> Any:
        """A file as the encoder reads it. Raises DataError where it cannot be read."""
        raise NotImplementedError

    def _file(self, group: Group) -> Path:
        name = group.columns.get(self.column)
        if not isinstance(name, str) or not name:
            known = ", ".join(group.columns) or "none"
            raise DataError(
                f"{group.origin or 'a row'}: names no {self.medium} in the column {self.column!r} (known: {known})"
            )
        file = Path(self.folder or ".") / name
        if self.folder is not None and not Path(abspath(file)).is_relative_to(abspath(self.folder)):
            raise DataError(f"{group.origin or 'a row'}: the {self.medium} {name} is not in the folder {self.folder}")
        return file

    def _features(self, files: set[Path]) -> dict[Path, list[list[float]]]:
        """The vectors of each file, (vectors, width); rows that name the same file share them."""
        encode: Any = self.encoder.build()
        kept = Kept(None if self.cache is None else Path(self.cache), encode.identity, self.called)
        digests = {file: self._digest(file) for file in sorted(files)}
        missing = {digest: file for file, digest in digests.items() if digest not in kept.known}
        names, made = list(missing), dict[str, Any]()
        for start in range(0, len(names), TOGETHER):
            some = names[start : start + TOGETHER]
            made |= zip(some, self._encoded(encode, [missing[digest] for digest in some]), strict=True)
        if made:
            kept.add(made)
        lists = {digest: kept.known[digest].tolist() for digest in set(digests.values())}
        return {file: lists[digest] for file, digest in digests.items()}

    def _encoded(self, encode: Callable[[Sequence[Any]], Any], files: Sequence[Path]) -> Any:
        """The features of files. Raises DataError, which names the file that the encoder refuses."""
        opened = [self.opened(file) for file in files]
        try:
            return encode(opened)
        except DataError:
            for file, one in zip(files, opened, strict=True):
                try:
                    encode([one])
                except DataError as error:
                    raise DataError(f"{self.called}: {file}: {error}") from error
            raise

    def _digest(self, file: Path) -> str:
        try:
            return blake2b(file.read_bytes(), digest_size=16).hexdigest()
        except OSError as error:
            raise DataError(f"{self.called}: {file}: {error.strerror}") from error


def captioned(group: Group, column: str) -> Group:
    """The row with its caption before the prompt, and its features 0. Raises DataError where it has no caption."""
    caption = group.columns.get(column)
    if not isinstance(caption, str) or not caption:
        known = ", ".join(group.columns) or "none"
        raise DataError(f"{group.origin or 'a row'}: has no caption in the column {column!r} (known: {known})")
    blank = [[0.0] * len(vector) for vector in group.columns[FEATURES]]
    return replace(group, prompt=_before(group.prompt, f"{caption} "), columns={**group.columns, FEATURES: blank})


def _before(prompt: Any, words: str) -> Any:
    """A text, or messages, with words at the start."""
    if isinstance(prompt, str):
        return words + prompt
    first, *rest = prompt
    return [{**first, "content": words + first["content"]}, *rest]


class Kept:
    """Features by the digest of their file, in a file of the encoder's own where there is a folder."""

    def __init__(self, folder: Path | None, identity: str, called: str) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        name = blake2b(identity.encode(), digest_size=16).hexdigest()
        self.file = None if folder is None else folder / f"{name}.safetensors"
        try:
            self.known: dict[str, Any] = load_file(self.file) if self.file and self.file.exists() else {}
        except SafetensorError as error:
            raise DataError(f"{called}: the cache {self.file} is damaged ({error}): delete it") from error

    def add(self, features: dict[str, Any]) -> None:
        """Keeps more; the file is replaced in one step."""
        from safetensors.torch import save

        self.known |= {digest: each.contiguous() for digest, each in features.items()}
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=self.file.parent, delete=False) as written:
            written.write(save(self.known))
        Path(written.name).replace(self.file)
