"""llama.cpp through the `xllamacpp` wheel: its server in this process, asked without HTTP.

No speculation, greedy, no prompt cache for what is timed. The clock is read where ours is, in the caller,
when each token arrives.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def available() -> bool:
    """Whether the wheel is installed."""
    return find_spec("xllamacpp") is not None


def system_info() -> str:
    """llama.cpp's own line about the instruction sets that it was built for and found."""
    import xllamacpp

    return " ".join(xllamacpp.get_system_info().split())


def open_server(
    model: Path, *, threads: int, context: int, slots: int = 1, batch: int | None = None,
    ubatch: int | None = None, flash: bool | None = None,
) -> Any:  # fmt: skip
    """A server with `slots` sequences of up to `context` tokens each. None: llama.cpp's default."""
    import xllamacpp

    kinds = xllamacpp.llama_flash_attn_type
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx, params.n_parallel = context * slots, slots
    params.n_batch, params.n_ubatch = batch or params.n_batch, ubatch or params.n_ubatch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    if flash is not None:
        params.flash_attn_type = (
            kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
    params.cache_prompt, params.cache_ram_mib = False, 0
    params.endpoint_slots, params.fit_params, params.warmup = False, False, True
    params.verbosity = 0
    return xllamacpp.Server(params)


def complete(
    server: Any, ids: Sequence[int], tokens: int, on_token: Callable[[], bool], *, cached: bool = False
) -> int:
    """Exactly `tokens` greedy tokens after `ids`; how many it wrote. Any thread may call this.

    `on_token` is called as each token arrives, and ends the answer by returning True. A token that ends in
    half a character arrives with the next one. `cached`: what the slot has read before may be used again.
    """
    own: dict[str, float] = {}
    ended = False

    def on_chunk(chunk: Any) -> bool:
        nonlocal ended
        if isinstance(chunk, (str, bytes)):
            chunk = json.loads(chunk)
        if "choices" not in chunk:
            raise RuntimeError(f"llama.cpp: {chunk}")
        if chunk["choices"][0]["finish_reason"] is None:
            ended = on_token()
        own.update(chunk.get("timings", {}))
        return ended

    request = {
        "prompt": list(ids), "n_predict": tokens, "temperature": 0.0, "ignore_eos": True,
        "cache_prompt": cached, "stream": True,
    }  # fmt: skip
    server.handle_completions(request, on_chunk)
    if not ended and (own.get("predicted_n") != tokens or (not cached and own.get("prompt_n") != len(ids))):
        raise RuntimeError(f"llama.cpp was asked for {len(ids)} + {tokens} tokens and did {own}")
    return int(own.get("predicted_n", 0))


class Wheel:
    """One server with one slot."""

    name = "llama.cpp (wheel)"

    def __init__(self, model: Path, *, threads: int, flash: bool, ubatch: int, context: int) -> None:
        self._server = open_server(model, threads=threads, flash=flash, ubatch=ubatch, context=context)

    async def decode(self, ids: Sequence[int], tokens: int) -> float:
        """The prompt is not timed: that of the last call may be used again."""
        arrivals: list[float] = []

        def on_token() -> bool:
            arrivals.append(time.perf_counter())
            return False

        complete(self._server, ids, tokens, on_token, cached=True)
        return (len(arrivals) - 1) / (arrivals[-1] - arrivals[0])

    async def prefill(self, ids: Sequence[int]) -> float:
        began = time.perf_counter()
        complete(self._server, ids, 1, lambda: False)
        return len(ids) / (time.perf_counter() - began)
