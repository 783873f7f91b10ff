"""A conversation: a chat whose keys and values stay in memory, so that a turn reads only what is new."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from coro_rt.errors import CoroRtError, RuntimeClosed
from coro_rt.stream import Stream

from .seat import Lender

if TYPE_CHECKING:
    from .decoder import Model
    from .generate import Token
    from .model import LLM
    from .request import Message
    from .sequence import Sequence


class Conversation:
    """Made by `LLM.conversation`. One question at a time. `close` (or `with`) gives the memory back.

    `messages`: what was said so far. An answer that was cut short stays as far as it came.
    """

    def __init__(self, llm: LLM, sequence: Sequence, system: str | None) -> None:
        self._llm = llm
        self._lock = threading.Lock()  # between being closed and going elsewhere
        sequence.model.conversations.add(self)  # as long as it is open, the model stays loaded
        self._sequence: Sequence | None = sequence
        self._answering = False
        self.messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]

    def ask(self, question: str, **options: Any) -> Stream[Token]:
        """Stream the answer; options as for `LLM.generate`. What is asked counts as said once the answer
        begins.

        Raises RuntimeClosed after `close`; CoroRtError, from the stream, while another question is being
        answered.
        """
        self._open()
        said: list[Message] = [*self.messages, {"role": "user", "content": question}]
        return self._llm.chat(said, _lender=Turn(self, said), **options)

    def close(self) -> None:
        """Give the memory back, at once or when the answer under way has ended. Further calls do nothing."""
        with self._lock:
            sequence, self._sequence = self._sequence, None
        if sequence is None:
            return
        sequence.model.conversations.discard(self)
        if not self._answering:
            sequence.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Sequence:
        if self._sequence is None:
            raise RuntimeClosed("this conversation has been closed: begin another with llm.conversation()")
        return self._sequence


class Turn(Lender):
    """One question of a conversation: lends the conversation's sequence to the job that answers.

    On another device than the last answer it lends a new one, which takes the other's place once the text has
    been read there.
    """

    def __init__(self, conversation: Conversation, said: list[Message]) -> None:
        self._conversation = conversation
        self._said = said
        self._kept: Sequence | None = None

    @contextmanager
    def turn(self, answer: list[str]) -> Iterator[None]:
        """What comes into `answer` is remembered, however it ends."""
        conversation = self._conversation
        if conversation._answering:
            raise CoroRtError(
                "this conversation is answering a question already: read that answer to its end first"
            )
        conversation._open()
        conversation._answering = True
        try:
            yield
        finally:
            conversation._answering = False
            conversation.messages = [*self._said, {"role": "assistant", "content": "".join(answer)}]
            if conversation._sequence is None and self._kept is not None:  # closed in the last moment
                self._kept.release()

    def lend(self, model: Model, *, reuse: bool) -> Sequence:
        sequence = self._conversation._sequence
        if sequence is not None and sequence.model is model:
            return sequence
        return super().lend(model, reuse=reuse)

    def settle(self, sequence: Sequence) -> None:
        conversation = self._conversation
        with conversation._lock:
            former = conversation._sequence
            if former is None or former is sequence:  # None: closed meanwhile
                return
            conversation._sequence = sequence
            former.model.conversations.discard(conversation)
            sequence.model.conversations.add(conversation)
        if former.job is None:  # else it is taken back when the job has left it
            former.release()

    def take_back(self, sequence: Sequence) -> None:
        if sequence is self._conversation._sequence:
            self._kept = sequence
        else:
            super().take_back(sequence)
