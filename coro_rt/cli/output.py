"""Where a command's words go: results to standard output, notes to standard error, figures to JSON if asked.

With `--json -` standard output is for JSON alone, and the results for people go to standard error as well.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn

# A model's text may hold anything, and a terminal obeys control characters.
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "\N{REPLACEMENT CHARACTER}")
del _CONTROLS[ord("\n")], _CONTROLS[ord("\t")]


def plain(text: str) -> str:
    """`text` without what a terminal would obey."""
    return text.translate(_CONTROLS)


class Output:
    """One command's output. `json_to`: a path, "-" for standard output, or None."""

    def __init__(self, json_to: str | None) -> None:
        self._json_to = json_to
        self.results = Console(stderr=json_to == "-", highlight=False, soft_wrap=True)
        self.notes = Console(stderr=True, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A line about what is going on."""
        self.notes.print(text, style="dim", markup=False)

    def progress(self, *columns: ProgressColumn) -> Progress:
        """A bar that goes when it is done. It has no thread of its own, so it is drawn where it is told to
        `refresh`; nothing is shown where there is no terminal.
        """
        terminal = self.notes.is_terminal
        return Progress(
            *columns, console=self.notes, auto_refresh=False, transient=True, disable=not terminal
        )

    def line(self, text: str, *, style: str = "") -> None:
        """A line of the result."""
        self.results.print(plain(text), style=style, markup=False)

    def write(self, text: str) -> None:
        """A piece of a model's text, shown at once."""
        self.results.file.write(plain(text))
        self.results.file.flush()

    def table(self, table: RenderableType) -> None:
        """A table of the result, or several."""
        self.results.print(table, soft_wrap=False)

    @property
    def is_json(self) -> bool:
        """Whether JSON was asked for."""
        return self._json_to is not None

    def json(self, result: dict[str, Any]) -> None:
        """The result as JSON, if that was asked for."""
        self._write_json(json.dumps(result, indent=2, ensure_ascii=False), "w")

    def json_line(self, result: dict[str, Any]) -> None:
        """One of many results as a line of JSON, if that was asked for."""
        self._write_json(json.dumps(result, ensure_ascii=False), "a")

    def _write_json(self, written: str, mode: str) -> None:
        if self._json_to == "-":
            sys.stdout.write(written + "\n")
            sys.stdout.flush()
        elif self._json_to is not None:
            with Path(self._json_to).open(mode, encoding="utf-8", errors="replace") as file:
                file.write(written + "\n")
