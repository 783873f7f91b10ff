"""Text to token ids and back, by the vocabulary in the model's file.

Two kinds of text, one rule: **only `special=True` can produce a control token**. Control tokens are found by
splitting the text at their names before the rest is encoded, and that happens only when asked for; what
encodes the rest (`byte_level.py`, `sentence_piece.py`) knows the ordinary tokens alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from gguf.constants import TokenType

from coro_rt.errors import UnsupportedModel

from .byte_level import ByteLevel
from .gguf_file import GGUFFile
from .sentence_piece import SPACE, SentencePiece
from .vocabulary import Vocabulary

__all__ = ["Tokenizer", "control_tokens"]

MODELS: Mapping[str, type[ByteLevel] | type[SentencePiece]] = {"gpt2": ByteLevel, "llama": SentencePiece}
"""By the file's `tokenizer.ggml.model`, which names the first model that had one of the kind."""


class Tokenizer:
    """Turns text into ids and ids into text. Made by `from_gguf`; any thread may use it.

    `vocab_size`: how many ids there are. `eos_ids`: the ids that end a generation. `bos_id`: the id that
    begins a text, or None; `add_bos`: whether the model expects it there (`encode` does not add it, the
    caller does).
    """

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Tokenizer:
        """Raises `UnsupportedModel` for an unknown kind of tokenizer, `ModelFileError` for a broken one."""
        model = file.require_str("tokenizer.ggml.model")
        if model not in MODELS:
            raise UnsupportedModel(
                f"{file.path}: the tokenizer model {model!r} is not supported; known are "
                + ", ".join(map(repr, MODELS))
            )
        return cls(file, MODELS[model])

    def __init__(self, file: GGUFFile, kind: type[ByteLevel] | type[SentencePiece]) -> None:
        vocabulary = Vocabulary.from_gguf(file)
        self._model = kind(file, vocabulary)
        self.vocab_size = len(vocabulary.names)
        self.add_bos = file.get_bool("tokenizer.ggml.add_bos_token", default=self._model.begins)
        self.bos_id, self.eos_ids = vocabulary.bos, vocabulary.ends
        # Names that stand for one token wherever they occur: user-defined ones always, control on request.
        defined = vocabulary.of_type(TokenType.USER_DEFINED)
        if kind is SentencePiece:
            defined = {name.replace(SPACE, " "): token for name, token in defined.items()}
        control = vocabulary.of_type(TokenType.CONTROL)
        self._plain = _Splitter(defined)
        self._special = _Splitter(defined | control)
        self._named = frozenset({*defined.values(), *control.values()})

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The ids of `text`; only with `special` do names such as `<|im_start|>` become control tokens.

        Raises `UnicodeEncodeError` if the text has a lone surrogate, which no bytes stand for.
        """
        return self.encode_parts([(text, special)])

    def encode_parts(self, parts: Iterable[tuple[str, bool]]) -> list[int]:
        """The ids of a text of which only the parts marked True may hold names of control tokens.

        Where parts meet, the text is encoded as if it were one.
        """
        pieces: list[str | int] = []
        for text, special in parts:
            for piece in (self._special if special else self._plain).split(text):
                if pieces and isinstance(piece, str) and isinstance(pieces[-1], str):
                    pieces[-1] += piece
                else:
                    pieces.append(piece)
        ids: list[int] = []
        for i, piece in enumerate(pieces):
            if isinstance(piece, int):
                ids.append(piece)
                continue
            if i and pieces[i - 1] in self._model.swallows:
                piece = piece.lstrip()
            if piece and self._model.joins:  # it follows on nothing, or on a token found by name
                piece = " " + piece
            ids += self._model.encode(piece)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; control tokens give nothing, and bytes that are not UTF-8 become U+FFFD.

        A space that `encode` puts before a text is left out again.
        """
        pieces: list[bytes] = []
        follows = True
        for token in ids:
            piece = self.token_bytes(token)
            named = token in self._named
            if self._model.joins and follows and not named:
                piece = piece.removeprefix(b" ")
            pieces.append(piece)
            follows = named
        return b"".join(pieces).decode(errors="replace")

    def bytes_after(self, last: int) -> Callable[[int], bytes]:
        """A `token_bytes` for the tokens that follow on `last`, to be called once for each.

        Behind a token found by name, the space that `encode` would put before a text is left out.
        """
        if not (self._model.joins and last in self._named):
            return self.token_bytes
        follows = True

        def bytes_of(token: int) -> bytes:
            nonlocal follows
            piece = self.token_bytes(token)
            if follows:
                piece = piece.removeprefix(b" ")
            follows = False
            return piece

        return bytes_of

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for, none for a control token. Raises `IndexError` for no token."""
        if not 0 <= token < self.vocab_size:
            raise IndexError(f"there is no token {token}: the vocabulary has {self.vocab_size}")
        return self._model.bytes[token]


def control_tokens(file: GGUFFile) -> dict[str, int]:
    """The control tokens of a file, id by name. Raises `ModelFileError`."""
    return Vocabulary.from_gguf(file).of_type(TokenType.CONTROL)


class _Splitter:
    """Cuts a text at the names of tokens; where several names begin at one place, the longest counts.

    Some models have thousands of names. A regular expression of them all would try each wherever one may
    begin; here only so many are looked up as there are lengths of names with the same first character.
    """

    def __init__(self, names: Mapping[str, int]) -> None:
        self._names = names
        lengths: dict[str, set[int]] = {}
        for name in names:
            lengths.setdefault(name[0], set()).add(len(name))
        self._lengths = {first: sorted(some, reverse=True) for first, some in lengths.items()}
        self._first = re.compile(f"[{''.join(map(re.escape, lengths))}]" if names else "(?!)")

    def split(self, text: str) -> list[str | int]:
        """The text between the names as strings, without empty ones; the names as ids."""
        pieces: list[str | int] = []
        done = at = 0
        while match := self._first.search(text, at):
            at = match.start()
            for length in self._lengths[match[0]]:
                token = self._names.get(text[at : at + length])
                if token is not None:
                    pieces += [text[done:at], token] if at > done else [token]
                    done = at = at + length
                    break
            else:
                at += 1
        return [*pieces, text[done:]] if done < len(text) else pieces
