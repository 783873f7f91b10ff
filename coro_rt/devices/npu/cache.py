"""Compiled graphs on disk: a folder for each model, provider and way to keep numbers, in it one per shape.

    cache folder / KEY / 128+256 / 0.onnx, 1.onnx, …, manifest.json

A shape's folder is made beside its place and then renamed, so it is whole or not there. Every file's hash is
in the manifest; what does not fit is thrown away and made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from .program import Shape

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Group:
    """The compiled graph of layers `first` … `stop` - 1."""

    first: int
    stop: int
    nbytes: int
    sha256: str


class CompiledCache:
    """The folder of one key. Several processes may use it."""

    def __init__(self, root: Path | None, key: str) -> None:
        root = Path(platformdirs.user_cache_dir("coro_rt")) / "npu" if root is None else root
        self.folder = root / hashlib.sha256(key.encode()).hexdigest()[:32]

    def get(self, shape: Shape) -> list[tuple[Path, Group]] | None:
        """A shape's groups, in order; None if they are not there, or not as they were written."""
        folder = self._place(shape)
        try:
            said = json.loads((folder / MANIFEST).read_text())
            groups = [Group(**each) for each in said["groups"]]
            files = [folder / f"{number}.onnx" for number in range(len(groups))]
            sound = bool(groups) and all(
                _sha256(file) == group.sha256 for file, group in zip(files, groups, strict=True)
            )
        except (OSError, ValueError, KeyError, TypeError):
            sound = False
        return list(zip(files, groups, strict=True)) if sound else None

    def put(
        self, shape: Shape, spans: list[range], compile: Callable[[range, Path], None]
    ) -> list[tuple[Path, Group]]:
        """Have `compile(layers, path)` write each group's file, and keep them. Raises OSError, and what
        `compile` raises; then nothing is kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="making-", dir=self.folder))
        try:
            groups = []
            for number, span in enumerate(spans):
                file = made / f"{number}.onnx"
                compile(span, file)
                groups.append(Group(span.start, span.stop, file.stat().st_size, _sha256(file)))
            said = {"shape": str(shape), "groups": [asdict(group) for group in groups]}
            (made / MANIFEST).write_text(json.dumps(said, indent=1))
            if self.get(shape) is None:
                self.drop(shape)
            with suppress(OSError):  # another process was faster: its files serve as well
                made.rename(self._place(shape))
        finally:
            shutil.rmtree(made, ignore_errors=True)
        kept = self.get(shape)
        if kept is None:
            raise OSError(f"the compiled graphs in {self._place(shape)} changed while they were written")
        return kept

    def drop(self, shape: Shape) -> None:
        """Forget a shape's groups."""
        shutil.rmtree(self._place(shape), ignore_errors=True)

    def _place(self, shape: Shape) -> Path:
        return self.folder / f"{shape.tokens}+{shape.past}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
