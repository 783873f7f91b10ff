"""Text to token ids and back: byte-level BPE, rebuilt from the vocabulary and merges in the model's file.

Two kinds of text, one rule: **only `special=True` can produce a control token**. The BPE model is given the
ordinary tokens alone, so that no merge, however the file was made, leads to a control token from plain text;
control tokens are found by splitting the text at their names before the BPE sees it, and that happens only
when asked for.

In a byte-level vocabulary every byte stands as one printable character, so the pieces of a text are always
whole bytes, though not always whole UTF-8 characters (see `text.py`). A vocabulary may lack bytes that its
training text never had (SmolLM2's lacks 21); a character that needs one of them becomes U+FFFD. llama.cpp
leaves it out, and the file's "unknown" token is no way out either: here it is also the one that ends a text.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import tokenizers
from gguf.constants import TokenType
from tokenizers import models, pre_tokenizers

from coro_rt.errors import ModelFileError, UnsupportedModel
from coro_rt.llm.gguf_file import GGUFFile

__all__ = ["Tokenizer", "control_tokens"]


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


PRE_TOKENIZERS: Mapping[str, Callable[[], pre_tokenizers.PreTokenizer]] = {"gpt-2": _gpt2, "smollm": _smollm}
"""How a text is cut before merging, by the file's `tokenizer.ggml.pre`. A wrong cut gives wrong tokens
without any other sign: a name gets in here only with ids to test it against ("gpt-2" is the last step of
"smollm")."""

END_NAMES = frozenset({"<|endoftext|>", "<|im_end|>"})
"""Control tokens that end a text or a turn, though a file names only one of them as its end."""
END_KINDS = ("eos", "eot", "eom")
"""Ends of a text, a turn and a message, as the file's keys call them."""

_REPLACEMENT = "\ufffd"
_KNOWN_TYPES = frozenset(TokenType) - {TokenType.BYTE}


class Tokenizer:
    """Turns text into ids and ids into text. Made by `from_gguf`; it never changes, so any thread may use it.

    `vocab_size`: how many ids there are. `eos_ids`: the ids that end a generation. `bos_id`: the id that
    begins a text, or None; `add_bos`: whether the model expects it there (`encode` does not add it, the
    caller does).
    """

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Tokenizer:
        """Raises `UnsupportedModel` for an unknown kind of tokenizer, `ModelFileError` for a broken one."""
        model = file.require_str("tokenizer.ggml.model")
        if model != "gpt2":
            raise UnsupportedModel(f"{file.path}: the tokenizer model {model!r} is not supported; 'gpt2' is")
        pre = file.get_str("tokenizer.ggml.pre", default=None)
        if pre is None or pre not in PRE_TOKENIZERS:
            came = "none" if pre is None else repr(pre)
            raise UnsupportedModel(
                f"{file.path}: the pre-tokenizer (tokenizer.ggml.pre) is {came}; known are "
                + ", ".join(map(repr, PRE_TOKENIZERS))
            )
        return cls(file, PRE_TOKENIZERS[pre]())

    def __init__(self, file: GGUFFile, pre_tokenizer: pre_tokenizers.PreTokenizer) -> None:
        names, types = _vocabulary(file)
        self.vocab_size = len(names)
        self.add_bos = bool(file.get_bool("tokenizer.ggml.add_bos_token", default=False))
        self.bos_id = _id(file, "bos", len(names))
        control = _of_type(TokenType.CONTROL, names, types)
        ends = {_id(file, kind, len(names)) for kind in END_KINDS} | {control.get(name) for name in END_NAMES}
        self.eos_ids = frozenset(token for token in ends if token is not None)
        ordinary = _of_type(TokenType.NORMAL, names, types)
        self._bytes = _all_bytes(file, names, types)
        self._missing = bytes(byte for name, byte in _BYTE_OF.items() if name not in ordinary)
        if set(self._missing) & set(_REPLACEMENT.encode()):
            few = self._missing[:8].hex(" ")
            raise ModelFileError(
                f"{file.path}: the vocabulary lacks the bytes {few} …, too many to read text"
            )
        self._bpe = tokenizers.Tokenizer(models.BPE(vocab=ordinary, merges=_merges(file, ordinary)))
        self._bpe.pre_tokenizer = pre_tokenizer
        # Names that stand for one token wherever they occur: user-defined ones always, control on request.
        whole = _of_type(TokenType.USER_DEFINED, names, types)
        self._plain = _Splitter(whole)
        self._special = _Splitter(whole | control)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The ids of `text`; only with `special` do names such as `<|im_start|>` become control tokens.

        Raises `UnicodeEncodeError` if the text has a lone surrogate, which no bytes stand for.
        """
        ids: list[int] = []
        for piece in (self._special if special else self._plain).split(text):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += self._bpe.encode(self._expressible(piece), add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; control tokens give nothing, and bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for, none for a control token. Raises `IndexError` for no token."""
        if not 0 <= token < self.vocab_size:
            raise IndexError(f"there is no token {token}: the vocabulary has {self.vocab_size}")
        return self._bytes[token]

    def _expressible(self, text: str) -> str:
        encoded = text.encode()
        if len(encoded.translate(None, self._missing)) == len(encoded):
            return text
        missing = set(self._missing)
        return "".join(_REPLACEMENT if missing.intersection(char.encode()) else char for char in text)


def control_tokens(file: GGUFFile) -> dict[str, int]:
    """The control tokens of a file, id by name. Raises `ModelFileError`."""
    return _of_type(TokenType.CONTROL, *_vocabulary(file))


class _Splitter:
    """Cuts a text at the names of tokens; where several names begin at one place, the longest counts."""

    def __init__(self, names: Mapping[str, int]) -> None:
        self._names = names
        longest_first = sorted(names, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if names else None

    def split(self, text: str) -> list[str | int]:
        """The text between the names as strings, without empty ones; the names as ids."""
        pieces = self._pattern.split(text) if self._pattern else [text]
        return [self._names[piece] if i % 2 else piece for i, piece in enumerate(pieces) if piece]


def _vocabulary(file: GGUFFile) -> tuple[list[str], list[int]]:
    """Names and types of the tokens; what begins or ends a text is made a control token."""
    names = file.require_strs("tokenizer.ggml.tokens")
    types = list(file.require_ints("tokenizer.ggml.token_type"))
    if len(types) != len(names):
        raise ModelFileError(f"{file.path}: {len(names)} tokens, but {len(types)} token types")
    if strange := set(types) - _KNOWN_TYPES:
        raise ModelFileError(f"{file.path}: token type {strange.pop()} does not belong to a gpt2 tokenizer")
    if len(set(names)) != len(names):
        raise ModelFileError(f"{file.path}: two tokens of the vocabulary have the same text")
    for kind in ("bos", *END_KINDS):
        token = _id(file, kind, len(names))
        if token is not None:
            types[token] = TokenType.CONTROL
    return names, types


def _id(file: GGUFFile, kind: str, vocab_size: int) -> int | None:
    key = f"tokenizer.ggml.{kind}_token_id"
    token = file.get_int(key, default=None)
    if token is not None and not 0 <= token < vocab_size:
        raise ModelFileError(f"{file.path}: {key!r} is {token}, but the vocabulary has {vocab_size} tokens")
    return token


def _of_type(kind: TokenType, names: list[str], types: list[int]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names) if types[i] == kind and name}


def _byte_alphabet() -> dict[str, int]:
    """The character of each byte: its own in Latin-1 if that is visible, else the next from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _all_bytes(file: GGUFFile, names: list[str], types: list[int]) -> list[bytes]:
    result: list[bytes] = []
    for name, kind in zip(names, types, strict=True):
        if kind == TokenType.NORMAL:
            try:
                result.append(bytes([_BYTE_OF[char] for char in name]))
            except KeyError as error:
                raise ModelFileError(
                    f"{file.path}: the token {name!r} has {error.args[0]!r}, which stands for no byte"
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
