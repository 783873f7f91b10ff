"""The peers that are installed here, each with the settings that a short sweep finds fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from coro_rt.errors import CoroRtError

from . import native, wheel
from .child import Child
from .native import Native
from .turns import Side, in_turns
from .wheel import Wheel

PYTHON = Path(".venv-peer/bin/python")
"""Where `make bench-peer` puts the native one."""

SETTINGS: list[dict[str, Any]] = [
    {"flash": flash, "ubatch": ubatch} for flash in (True, False) for ubatch in (512, 128)
]
"""What the sweep tries: flash attention, and rows in one step of a prompt."""


@dataclass
class Peers:
    """Ways to open each installed peer, by name, and what they say about themselves."""

    openers: dict[str, Callable[..., Side]]
    infos: list[str] = field(default_factory=list)

    async def best(
        self, model: Path, threads: int, ids: Sequence[int], tokens: int, *, sweeps: int = 1
    ) -> list[tuple[Side, str]]:
        """Of each the fastest at what is to be measured (`tokens` after `ids`; 0: reading them), and its
        settings in words.
        """
        found = []
        for name, opener in self.openers.items():
            # decoding one token at a time, the rows in one step do not matter
            settings = [one for one in SETTINGS if not tokens or one["ubatch"] == SETTINGS[0]["ubatch"]]
            context = len(ids) + tokens + 64
            sides = [opener(model, threads=threads, context=context, **one) for one in settings]
            rates = await in_turns([partial(asked, side, ids, min(tokens, 32)) for side in sides], sweeps)
            at = max(range(len(sides)), key=lambda one: max(rates[one]))
            flash = "on" if settings[at]["flash"] else "off"
            words = f"{name}: flash attention {flash}, ubatch {settings[at]['ubatch']}"
            found.append((sides[at], words))
        return found


async def asked(side: Side, ids: Sequence[int], tokens: int) -> float:
    """Its rate of decoding, or of reading where no tokens are asked for."""
    return await (side.decode(ids, tokens) if tokens else side.prefill(ids))


@contextmanager
def installed(wanted: str | None, python: Path = PYTHON) -> Iterator[Peers]:
    """The peers of that name, none for None. CoroRtError if there is none: it says how to get one."""
    peers = Peers({})
    child: Child | None = None
    try:
        if wanted and wheel.available():
            peers.openers[Wheel.name] = Wheel
            peers.infos.append(f"{Wheel.name}: {wheel.system_info()}")
        if wanted and python.exists():
            child = native.start(python)
            peers.openers[Native.name] = partial(Native, child)
            peers.infos.append(f"{Native.name}: {child.ask('info')['info']}")
        if wanted and not peers.openers:
            raise CoroRtError(
                f"{wanted} is not here: install the extra `bench` (the wheel xllamacpp), or "
                f"`make bench-peer` for one compiled for this machine ({python})"
            )
        yield peers
    finally:
        if child is not None:
            child.close()
