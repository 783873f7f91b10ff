"""Tokens to text, piece by piece: never half a character, never a part of a stop string.

A token is some bytes, which may end within a UTF-8 character, and a stop string may begin in one token and
end in another. `TextStream` keeps back the least that it must: the bytes of an unfinished character and the
longest end of the text that could still become a stop string.

What could become a stop string is the longest suffix of the text that is a proper prefix of it: the state of
Knuth, Morris and Pratt's matcher ("Fast pattern matching in strings", 1977), so a character costs a few steps
however long the stop strings are.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

__all__ = ["TextStream"]


class TextStream:
    """The text of a sequence of tokens, until the first stop string.

    `token_bytes` gives the bytes of a token. `stop`: the strings that end the text; where several end at the
    same character, the one that begins first counts. Bytes that are not UTF-8 become U+FFFD.

    `stopped`: a stop string was found; the text before it has been released, and no more will be.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], stop: Sequence[str] = ()) -> None:
        """Raises `TypeError` if `stop` is no sequence of strings, `ValueError` if one of them is empty."""
        if isinstance(stop, str) or not all(isinstance(string, str) for string in stop):
            raise TypeError(f"stop is {stop!r}, not a sequence of strings")
        if not all(stop):
            raise ValueError("a stop string is empty, which would stop every text before its first character")
        self.stopped = False
        self._token_bytes = token_bytes
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._matchers = [_Matcher(string) for string in stop]
        self._held = ""

    def push(self, token: int) -> str:
        """The text that this token releases, often empty."""
        return "" if self.stopped else self._scan(self._decode(self._token_bytes(token)))

    def flush(self) -> str:
        """The end: what was held back, an unfinished character as U+FFFD. Push no more after it."""
        if self.stopped:
            return ""
        text = self._scan(self._decode(b"", True)) + self._held
        self._held = ""
        return text

    def _scan(self, new: str) -> str:
        for i, char in enumerate(new):
            ended = [len(matcher.string) for matcher in self._matchers if matcher.step(char)]
            if ended:
                self.stopped = True
                text = self._held + new[: i + 1]
                self._held = ""
                return text[: len(text) - max(ended)]
        text = self._held + new
        keep = max((matcher.matched for matcher in self._matchers), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


class _Matcher:
    """Finds one string: `matched` characters at the end of what came are its first ones."""

    def __init__(self, string: str) -> None:
        self.string = string
        self.matched = 0
        # borders[n]: the longest proper suffix of the first n characters that is also a prefix of the string.
        self._borders = [0, 0]
        for char in string[1:]:
            border = self._borders[-1]
            while border and string[border] != char:
                border = self._borders[border]
            self._borders.append(border + (string[border] == char))

    def step(self, char: str) -> bool:
        """Take one character; True when the whole string has come."""
        while self.matched and self.string[self.matched] != char:
            self.matched = self._borders[self.matched]
        self.matched += self.string[self.matched] == char
        return self.matched == len(self.string)
