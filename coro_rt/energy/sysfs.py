"""Reading Linux's /sys: a value a file, which may be missing, unreadable, or hold something else."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str | None:
    """What a file says; None if it is not there or cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """The whole number in a file; None if there is none."""
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
