"""A future of asyncio's whose task goes on at once.

asyncio's own tells its task in the loop's next turn, after one more look for events. But who sets a `Turn` is
a callback of the loop's that has no more to do, so its task may as well run there and then.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any


class Turn(asyncio.Future[None]):
    """For one task, which awaits it. Cancelled, it is as any other future."""

    _wake_up: tuple[Callable[[Any], object], Context | None] | None = None

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        """By the task that begins to wait."""
        self._wake_up = fn, context

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        """The opposite. Returns how many there were."""
        found = self._wake_up is not None and self._wake_up[0] == fn
        if found:
            self._wake_up = None
        return found

    def cancel(self, msg: Any | None = None) -> bool:
        """The task gets CancelledError in the loop's next turn. False: it is over."""
        if not super().cancel(msg):
            return False
        self._tell_later()
        return True

    def come(self) -> None:
        """It is over: its task goes on, and this returns when it waits again. Called by another task, it goes
        on in the loop's next turn."""
        if self.done():  # cancelled
            return
        self.set_result(None)
        if asyncio.current_task() is not None:
            self._tell_later()
        elif self._wake_up is not None:
            fn, context = self._wake_up
            if context is None:
                fn(self)
            else:
                context.run(fn, self)

    def _tell_later(self) -> None:
        if self._wake_up is not None:
            fn, context = self._wake_up
            self.get_loop().call_soon(fn, self, context=context)
