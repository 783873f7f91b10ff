"""Byte-level BPE, rebuilt from the vocabulary and merges in a model's file.

The BPE model is given the ordinary tokens alone, so that no merge, however the file was made, leads to a
control token from plain text.

In a byte-level vocabulary every byte stands as one printable character, so the pieces of a text are always
whole bytes, though not always whole UTF-8 characters (see `text.py`). A vocabulary may lack bytes that its
training text never had (SmolLM2's lacks 21); a character that needs one of them becomes U+FFFD. llama.cpp
leaves it out, and the file's "unknown" token is no way out either: here it is also the one that ends a text.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tokenizers
from gguf.constants import TokenType
from tokenizers import models, normalizers, pre_tokenizers

from coro_rt.errors import ModelFileError, UnsupportedModel

from .gguf_file import GGUFFile
from .vocabulary import Vocabulary

__all__ = ["BYTE_OF", "PRE_TOKENIZERS", "ByteLevel"]

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CASED_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Cut:
    """How a text is cut before merging. `words`: the regular expression of what stays together, None for
    GPT-2's; `digits`: each alone, before that; `composed`: characters first become composed ones (NFC);
    `whole`: a word that is a token is not merged from its parts; `begins`: texts begin with the token for
    that, where the file does not say.
    """

    words: str | None = None
    digits: bool = False
    composed: bool = False
    whole: bool = False
    begins: bool = False

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        steps: list[pre_tokenizers.PreTokenizer] = []
        if self.digits:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        if self.words is not None:
            steps.append(pre_tokenizers.Split(tokenizers.Regex(self.words), "isolated"))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.words is None))
        return pre_tokenizers.Sequence(steps)


_LLAMA3 = Cut(_WORDS.replace("DIGITS", "{1,3}"), whole=True, begins=True)
PRE_TOKENIZERS: Mapping[str, Cut] = {
    "gpt-2": Cut(),
    "smollm": Cut(digits=True),
    "qwen2": Cut(_WORDS.replace("DIGITS", ""), composed=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "dbrx": Cut(_WORDS.replace("DIGITS", "{1,3}")),
    "gpt-4o": Cut(_CASED_WORDS),
}
"""By the file's `tokenizer.ggml.pre`. A wrong cut gives wrong tokens without any other sign: a name gets in
here only with the expression that its makers have published."""

_REPLACEMENT = "\ufffd"


class ByteLevel:
    """Turns plain text into ids. `bytes`: what each token stands for, nothing for a control token."""

    joins = False
    """Nothing is put between texts."""
    swallows: frozenset[int] = frozenset()

    def __init__(self, file: GGUFFile, vocabulary: Vocabulary) -> None:
        """Raises `UnsupportedModel` for an unknown way to cut, `ModelFileError` for a broken vocabulary."""
        pre = file.get_str("tokenizer.ggml.pre", default=None)
        if pre is None or pre not in PRE_TOKENIZERS:
            came = "none" if pre is None else repr(pre)
            raise UnsupportedModel(
                f"{file.path}: the pre-tokenizer (tokenizer.ggml.pre) is {came}; known are "
                + ", ".join(map(repr, PRE_TOKENIZERS))
            )
        cut = PRE_TOKENIZERS[pre]
        self.begins = cut.begins
        if TokenType.BYTE in vocabulary.types:
            raise ModelFileError(
                f"{file.path}: token type {TokenType.BYTE} does not belong to a gpt2 tokenizer"
            )
        ordinary = vocabulary.of_type(TokenType.NORMAL)
        self.bytes = _all_bytes(vocabulary)
        self._missing = bytes(byte for name, byte in BYTE_OF.items() if name not in ordinary)
        if set(self._missing) & set(_REPLACEMENT.encode()):
            few = self._missing[:8].hex(" ")
            raise ModelFileError(
                f"{file.path}: the vocabulary lacks the bytes {few} …, too many to read text"
            )
        merges = _merges(file, ordinary)
        self._bpe = tokenizers.Tokenizer(models.BPE(vocab=ordinary, merges=merges, ignore_merges=cut.whole))
        self._bpe.pre_tokenizer = cut.pre_tokenizer()
        if cut.composed:
            self._bpe.normalizer = normalizers.NFC()

    def encode(self, text: str) -> list[int]:
        return self._bpe.encode(self._expressible(text), add_special_tokens=False).ids

    def _expressible(self, text: str) -> str:
        encoded = text.encode()
        if len(encoded.translate(None, self._missing)) == len(encoded):
            return text
        missing = set(self._missing)
        return "".join(_REPLACEMENT if missing.intersection(char.encode()) else char for char in text)


def _byte_alphabet() -> dict[str, int]:
    """The character of each byte: its own in Latin-1 if that is visible, else the next from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


def _all_bytes(vocabulary: Vocabulary) -> list[bytes]:
    result: list[bytes] = []
    for name, kind in zip(vocabulary.names, vocabulary.types, strict=True):
        if kind == TokenType.NORMAL:
            try:
                result.append(bytes([BYTE_OF[char] for char in name]))
            except KeyError as error:
                raise ModelFileError(
                    f"{vocabulary.path}: the token {name!r} has {error.args[0]!r}, which stands for no byte"
                ) from None
        else:
            result.append(name.encode() if kind == TokenType.USER_DEFINED else b"")
    return result


def _merges(file: GGUFFile, ordinary: Mapping[str, int]) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for merge in file.require_strs("tokenizer.ggml.merges"):
        left, _, right = merge.partition(" ")
        if not (left and right and {left, right, left + right} <= ordinary.keys()):
            raise ModelFileError(f"{file.path}: the merge {merge!r} does not join two tokens to a third")
        merges.append((left, right))
    return merges
