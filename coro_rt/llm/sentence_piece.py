"""SentencePiece's BPE: characters are joined by the scores of what they make, and spaces are visible.

A text's spaces become `▁`, and often one is put before it. Then, again and again, those two neighbours are
joined whose text is the token of the highest score, the leftmost of equals, until no two neighbours make a
token. What is no token in the end is spelled in bytes, `<0x0A>`.

It is done here and not by the `tokenizers` package, whose BPE wants a list of pairs: it ranks the pairs that
make one token, where only their place should count (`aaa` is `aa` `a`, not `a` `aa`), and cannot join
characters that are no tokens themselves. It is fast enough: no token goes on after a word's end, so a text
is cut into words, most of which have been seen before.

Source: Kudo and Richardson, "SentencePiece" (2018).
"""

from __future__ import annotations

import heapq
import re

from gguf.constants import TokenType

from coro_rt.errors import ModelFileError, UnsupportedModel

from .gguf_file import GGUFFile
from .vocabulary import Vocabulary

__all__ = ["SentencePiece"]

SPACE = "\u2581"
REMEMBERED_WORDS = 1 << 14
LONGEST_REMEMBERED = 32
KEEPS_SPACE = frozenset({"<s>", "<unk>", "<|endoftext|>"})


class SentencePiece:
    """Turns plain text into ids. `bytes`: what each token stands for, nothing for a control token.

    `joins`: a text that follows on nothing, or on a token found by name, gets a space before it. `swallows`:
    the tokens that take the white space behind them along.
    """

    begins = True

    def __init__(self, file: GGUFFile, vocabulary: Vocabulary) -> None:
        """Raises `UnsupportedModel` for what needs other normalising, `ModelFileError` for a broken
        vocabulary.
        """
        for key in "precompiled_charsmap", "remove_extra_whitespaces":
            if file.metadata.get(f"tokenizer.ggml.{key}"):
                raise UnsupportedModel(f"{file.path}: tokenizer.ggml.{key} is not supported")
        scores = file.require_floats("tokenizer.ggml.scores")
        if len(scores) != len(vocabulary.names):
            raise ModelFileError(
                f"{file.path}: {len(vocabulary.names)} tokens, but {len(scores)} scores of tokens"
            )
        self.joins = file.get_bool("tokenizer.ggml.add_space_prefix", default=True)
        self._ids = vocabulary.of_type(TokenType.NORMAL)
        self._scores = {name: scores[token] for name, token in self._ids.items()}
        spelled = vocabulary.of_type(TokenType.BYTE)
        missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in spelled]
        if missing:
            few = bytes(missing[:8]).hex(" ")
            raise UnsupportedModel(f"{file.path}: the vocabulary lacks tokens for the bytes {few} …")
        self._byte_ids = [spelled[f"<0x{byte:02X}>"] for byte in range(256)]
        self.bytes = [
            _bytes(name, kind) for name, kind in zip(vocabulary.names, vocabulary.types, strict=True)
        ]
        self.swallows: frozenset[int] = frozenset()
        if file.architecture == "phi3":  # Phi-3's own files say so for each of these tokens; GGUF has no key
            control = vocabulary.of_type(TokenType.CONTROL)
            self.swallows = frozenset(token for name, token in control.items() if name not in KEEPS_SPACE)
        crosses = any(SPACE in name.lstrip(SPACE) for name in self._ids)
        self._words = re.compile("(?s:.+)" if crosses else f"{SPACE}+[^{SPACE}]*|[^{SPACE}]+")
        self._remembered: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        text.encode()  # a lone surrogate is an error here, as for every tokenizer
        ids: list[int] = []
        for word in self._words.findall(text.replace(" ", SPACE)):
            known = self._remembered.get(word)
            if known is None:
                known = self._word(word)
                if len(word) <= LONGEST_REMEMBERED:
                    if len(self._remembered) >= REMEMBERED_WORDS:
                        self._remembered.clear()
                    self._remembered[word] = known
            ids += known
        return ids

    def _word(self, word: str) -> list[int]:
        parts = list(word)  # a part that has been joined to its left is ""
        after = [*range(1, len(parts)), -1]
        before = [*range(-1, len(parts) - 1)]
        found: list[tuple[float, int, str]] = []

        def consider(left: int) -> None:
            if left >= 0 and after[left] >= 0:
                joined = parts[left] + parts[after[left]]
                if joined in self._scores:
                    heapq.heappush(found, (-self._scores[joined], left, joined))

        for i in range(len(parts)):
            consider(i)
        while found:
            _, left, joined = heapq.heappop(found)
            right = after[left]
            if right < 0 or not parts[left] or parts[left] + parts[right] != joined:
                continue  # one of the two has been joined to another meanwhile
            parts[left], parts[right] = joined, ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            consider(before[left])
            consider(left)
        ids: list[int] = []
        for part in filter(None, parts):
            token = self._ids.get(part)
            ids += [self._byte_ids[byte] for byte in part.encode()] if token is None else [token]
        return ids


def _bytes(name: str, kind: int) -> bytes:
    if kind == TokenType.BYTE:
        return bytes([int(name[3:5], 16)]) if re.fullmatch("<0x[0-9A-F]{2}>", name) else b""
    if kind in (TokenType.NORMAL, TokenType.USER_DEFINED):
        return name.replace(SPACE, " ").encode()
    return b""
