"""Messages to a prompt, by the chat template in the model's file: somebody's program, run in `sandbox.py`.

**What people wrote cannot become a control token.** A template mixes its own text with theirs, and in the
result `<|im_end|>` looks the same whoever wrote it. So before rendering, each name of a control token in a
message is replaced by one private-use character; these tell afterwards where the text came from a message.
Nothing else in a message is touched: a template may trim it, cut it or look into it, and the prompt is the
same, token by token, as without this protection, wherever no message holds such a name. (Placeholders for
whole messages would break both.) A name that a message only begins, so that what comes next could complete
it, counts too.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Mapping, Sequence

from coro_rt.errors import TemplateError
from coro_rt.llm.gguf_file import GGUFFile
from coro_rt.llm.sandbox import Sandbox
from coro_rt.llm.tokenizer import control_tokens

__all__ = ["ChatTemplate"]

MAX_SOURCE = 64 << 10
"""Characters of a template; the longest known have about 20,000."""
COMPILE_BUDGET = 1_000_000
PRIVATE_USE = range(0xE000, 0xF900)


class ChatTemplate:
    """A compiled chat template. Any thread may use it."""

    def __init__(
        self, source: str, *, bos_token: str = "", eos_token: str = "", control_tokens: Collection[str] = ()
    ) -> None:
        """`control_tokens`: names that no message can stand for. Raises `TemplateError` if it is broken."""
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"the chat template has {len(source)} characters, more than {MAX_SOURCE}")
        self._source = source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._forgery = _forgery_pattern({*control_tokens, bos_token, eos_token} - {""})
        self._sandbox = Sandbox()
        self._lock = threading.Lock()
        try:
            self._template = self._sandbox.compile_within(COMPILE_BUDGET, source)
        except Exception as error:
            raise _template_error("compiled", error) from None

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> ChatTemplate | None:
        """The file's template, None if it has none. Raises as the constructor, and `ModelFileError`."""
        source = file.get_str("tokenizer.chat_template", default=None)
        if source is None:
            return None
        control = control_tokens(file)
        names = {token: name for name, token in control.items()}
        bos, eos = (file.get_int(f"tokenizer.ggml.{kind}_token_id", default=-1) for kind in ("bos", "eos"))
        return cls(
            source, bos_token=names.get(bos, ""), eos_token=names.get(eos, ""), control_tokens=control.keys()
        )

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
        """The prompt as one text, to look at; `render_parts` is what to encode."""
        parts = self.render_parts(messages, add_generation_prompt=add_generation_prompt)
        return "".join(text for text, _ in parts)

    def render_parts(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True
    ) -> list[tuple[str, bool]]:
        """The prompt in parts `(text, special)`, for `tokenizer.encode_parts`.

        `messages` are mappings of "role" and "content" to strings. Raises `TypeError` if something else came,
        and `TemplateError` if a role is no plain word, or the template fails, refuses the messages or
        oversteps its limits.
        """
        _check(messages)
        marks = _Marks(self._source, *self._tokens.values(), *(message["content"] for message in messages))
        guarded = [
            {"role": message["role"], "content": self._forgery.sub(marks.put, message["content"])}
            for message in messages
        ]
        variables = self._tokens | {"messages": guarded, "add_generation_prompt": bool(add_generation_prompt)}
        with self._lock:
            try:
                text = self._sandbox.render_within(_budget(messages), self._template, variables)
            except Exception as error:
                raise _template_error("rendered", error) from None
        return marks.split(text)


class _Marks:
    """Private-use characters that stand for texts while a template runs, and occur in nothing it works on."""

    def __init__(self, *texts: str) -> None:
        used = set().union(*texts)
        self._free = (char for char in map(chr, PRIVATE_USE) if char not in used)
        self._marks: dict[str, str] = {}

    def put(self, match: re.Match[str]) -> str:
        text = match[0]
        if text not in self._marks:
            try:
                self._marks[text] = next(self._free)
            except StopIteration:
                raise TemplateError("the messages use every private-use character; leave one out") from None
        return self._marks[text]

    def split(self, text: str) -> list[tuple[str, bool]]:
        """The text between the marks (True), and what they stand for (False)."""
        meaning = {mark: original for original, mark in self._marks.items()}
        pieces = re.split(f"([{''.join(meaning)}])", text) if meaning else [text]
        return [(meaning.get(piece, piece), piece not in meaning) for piece in pieces if piece]


def _forgery_pattern(names: Collection[str]) -> re.Pattern[str]:
    """Finds the names, and the beginning of one where a text ends (white space may get trimmed)."""
    beginnings = {name[:length] for name in names for length in range(1, len(name))}
    whole, begun = (
        "|".join(map(re.escape, sorted(some, key=len, reverse=True))) for some in (names, beginnings)
    )
    return re.compile(f"(?:{whole or '(?!)'})|(?:{begun or '(?!)'})(?=\\s*\\Z)")


def _check(messages: Sequence[Mapping[str, str]]) -> None:
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise TypeError(f"messages is {_kind(messages)}, not a list of mappings of 'role' and 'content'")
    if not messages:
        raise TemplateError("there are no messages to make a prompt of")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise TypeError(f"message {i} is {_kind(message)}, not a mapping of 'role' and 'content'")
        if message.keys() != {"role", "content"}:
            raise TemplateError(
                f"message {i} has the keys {sorted(map(str, message))}, not 'role' and 'content'"
            )
        for key, value in message.items():
            if not isinstance(value, str):
                raise TypeError(f"the {key} of message {i} is {_kind(value)}, not a string")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", message["role"]):
            raise TemplateError(
                f"the role of message {i} is {message['role'][:80]!r}, not a word such as 'user'"
            )


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"


def _budget(messages: Sequence[Mapping[str, str]]) -> int:
    """Far more than any honest template needs: its own part, for every message, for every character."""
    return 5_000_000 + 50_000 * len(messages) + 50 * sum(len(message["content"]) for message in messages)


def _template_error(what: str, error: Exception) -> TemplateError:
    if isinstance(error, TemplateError):
        return error
    reason = (
        "it nests too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:300]
    )
    return TemplateError(f"the chat template cannot be {what}: {reason or type(error).__name__}")
