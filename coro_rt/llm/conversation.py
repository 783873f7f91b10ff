"""A conversation: a chat whose keys and values stay in memory, so that a turn reads only what is new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from coro_rt.errors import CoroRtError, RuntimeClosed
from coro_rt.stream import Stream
from coro_rt.traps import current_job

if TYPE_CHECKING:
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
        llm._open().conversations.add(self)  # as long as it is open, the model stays loaded
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


class Turn:
    """One question of a conversation: lends the conversation's sequence to the job that answers."""

    def __init__(self, conversation: Conversation, said: list[Message]) -> None:
        self._conversation = conversation
        self._said = said

    @contextmanager
    def lend(self, answer: list[str]) -> Iterator[Sequence]:
        """For the job. What it puts into `answer` is remembered, however it ends."""
        conversation = self._conversation
        if conversation._answering:
            raise CoroRtError(
                "this conversation is answering a question already: read that answer to its end first"
            )
        sequence = conversation._open()
        conversation._answering = True
        try:
            with sequence.used_by(current_job()):
                yield sequence
        finally:
            conversation._answering = False
            conversation.messages = [*self._said, {"role": "assistant", "content": "".join(answer)}]
            if conversation._sequence is None:  # closed meanwhile
                sequence.release()
