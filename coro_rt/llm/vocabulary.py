"""The vocabulary in a model's file: each token's text and type, and which tokens have a part to play."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gguf.constants import TokenType

from coro_rt.errors import ModelFileError

from .gguf_file import GGUFFile

__all__ = ["Vocabulary"]

END_NAMES = frozenset(
    {
        "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>",
        "<end_of_turn>", "</s>",
    }
)  # fmt: skip
"""Control tokens that end a text or a turn, though a file names only one of them as its end."""
END_KINDS = ("eos", "eot", "eom")
"""Ends of a text, a turn and a message, as the file's keys call them."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`names[i]`, `types[i]` of token i. What the file says begins or ends a text is a control token."""

    path: Path
    names: list[str]
    types: list[int]
    bos: int | None
    ends: frozenset[int]

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Vocabulary:
        """Raises `ModelFileError`."""
        names = file.require_strs("tokenizer.ggml.tokens")
        types = list(file.require_ints("tokenizer.ggml.token_type"))
        if len(types) != len(names):
            raise ModelFileError(f"{file.path}: {len(names)} tokens, but {len(types)} token types")
        if strange := set(types) - set(TokenType):
            raise ModelFileError(f"{file.path}: there is no token type {strange.pop()}")
        used = [name for name, kind in zip(names, types, strict=True) if kind != TokenType.UNUSED]
        if len(set(used)) != len(used):
            raise ModelFileError(f"{file.path}: two tokens of the vocabulary have the same text")
        bos = _id(file, "bos", len(names))
        ends = {_id(file, kind, len(names)) for kind in END_KINDS} - {None}
        for token in {bos, *ends} - {None}:
            types[token] = TokenType.CONTROL  # type: ignore[index]
        ends |= {i for i, name in enumerate(names) if name in END_NAMES and types[i] == TokenType.CONTROL}
        return cls(file.path, names, types, bos, frozenset(token for token in ends if token is not None))

    def of_type(self, kind: TokenType) -> dict[str, int]:
        """Ids by name, without empty names."""
        return {name: i for i, name in enumerate(self.names) if self.types[i] == kind and name}


def _id(file: GGUFFile, kind: str, vocab_size: int) -> int | None:
    key = f"tokenizer.ggml.{kind}_token_id"
    token = file.get_int(key, default=None)
    if token is not None and not 0 <= token < vocab_size:
        raise ModelFileError(f"{file.path}: {key!r} is {token}, but the vocabulary has {vocab_size} tokens")
    return token
