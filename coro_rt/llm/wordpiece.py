"""WordPiece tokens, as BERT models have them, rebuilt from the vocabulary in the model's file.

A text loses its capitals and accents, is cut at spaces and around punctuation and Chinese characters, and
each word is cut into the longest pieces that the vocabulary has. In a GGUF file a piece that begins a word
has a mark (U+2581), one inside a word none; the `tokenizers` package wants the latter marked, with "##".

As in `tokenizer.py`, no plain text becomes a control token: "[SEP]" is cut at its brackets.

Source: Devlin et al., "BERT" (2018), and the algorithm of its published tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from gguf.constants import TokenType
from tokenizers import models, normalizers, pre_tokenizers

from coro_rt.errors import ModelFileError, UnsupportedModel

from .gguf_file import GGUFFile

__all__ = ["CONTINUATION", "SPECIAL", "WORD_START", "WordPiece"]

WORD_START = "\u2581"
CONTINUATION = "##"
LONGEST_WORD = 100
"""Longer words become one unknown token, as in the published tokenizer."""

SPECIAL = {"bos": "[CLS]", "seperator": "[SEP]", "unknown": "[UNK]", "padding": "[PAD]", "mask": "[MASK]"}
"""Control tokens by the file's keys (one of which is misspelt), and the names that they have by default."""


class WordPiece:
    """Turns text into ids and back; it never changes, so any thread may use it. `vocab_size`: how many ids
    there are.
    """

    def __init__(self, file: GGUFFile) -> None:
        """Raises `UnsupportedModel` for another kind of tokenizer, `ModelFileError` for a broken one."""
        if (model := file.require_str("tokenizer.ggml.model")) != "bert":
            raise UnsupportedModel(f"{file.path}: the tokenizer model {model!r} is not supported; 'bert' is")
        names = file.require_strs("tokenizer.ggml.tokens")
        types = file.require_ints("tokenizer.ggml.token_type")
        if len(types) != len(names):
            raise ModelFileError(f"{file.path}: {len(names)} tokens, but {len(types)} token types")
        self.vocab_size = len(names)
        self._control = {i for i, kind in enumerate(types) if kind != TokenType.NORMAL}
        vocab = {_piece(name, types[i]): i for i, name in enumerate(names) if name}
        ids = {}
        for key, name in SPECIAL.items():
            token = file.get_int(f"tokenizer.ggml.{key}_token_id", vocab.get(name, -1))
            if not 0 <= token < len(names) and key in ("bos", "seperator", "unknown"):
                raise ModelFileError(f"{file.path}: the vocabulary has no token {name}")
            ids[key] = token
        self._first, self._last = ids["bos"], ids["seperator"]
        self._control |= set(ids.values())
        unknown = next(name for name, token in vocab.items() if token == ids["unknown"])
        pieces = models.WordPiece(
            vocab,
            unk_token=unknown,
            max_input_chars_per_word=LONGEST_WORD,
            continuing_subword_prefix=CONTINUATION,
        )
        self._tokenizer = tokenizers.Tokenizer(pieces)
        self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._pieces = {token: name for name, token in vocab.items()}

    def encode(self, text: str) -> list[int]:
        """The ids of `text` between the tokens that begin and end it.

        Raises `UnicodeEncodeError` if the text has a lone surrogate.
        """
        text.encode()
        return [self._first, *self._tokenizer.encode(text, add_special_tokens=False).ids, self._last]

    def decode(self, ids: Iterable[int]) -> str:
        """The words of the ids, with spaces between them; what the normalizer took away is lost."""
        words: list[str] = []
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise IndexError(f"there is no token {token}: the vocabulary has {self.vocab_size}")
            piece = self._pieces.get(token, "")
            if token in self._control or not piece:
                continue
            if piece.startswith(CONTINUATION) and words:
                words[-1] += piece.removeprefix(CONTINUATION)
            else:
                words.append(piece)
        return " ".join(words)


def _piece(name: str, kind: int) -> str:
    """A token's name in the `tokenizers` package's way."""
    if kind != TokenType.NORMAL:
        return name
    if name.startswith(WORD_START) and name != WORD_START:
        return name[1:]
    return CONTINUATION + name
