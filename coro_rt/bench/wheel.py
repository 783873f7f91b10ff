"""llama.cpp through the `xllamacpp` wheel: its server in this process, asked without HTTP.

One slot, no speculation, no prompt cache. Timed where ours is: by the wall clock in the caller, when each
token arrives.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
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


class Wheel:
    """One server with one slot."""

    name = "llama.cpp (wheel)"

    def __init__(self, model: Path, *, threads: int, flash: bool, ubatch: int, context: int) -> None:
        import xllamacpp

        kinds = xllamacpp.llama_flash_attn_type
        params = xllamacpp.CommonParams()
        params.model.path = str(model)
        params.n_ctx, params.n_parallel = context, 1
        params.n_batch, params.n_ubatch = 2048, ubatch
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.flash_attn_type = (
            kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.cache_prompt, params.cache_ram_mib = False, 0
        params.endpoint_slots, params.fit_params, params.warmup = False, False, True
        params.verbosity = 0
        self._server = xllamacpp.Server(params)

    async def decode(self, ids: Sequence[int], tokens: int) -> float:
        arrivals, _ = self._complete(ids, tokens)
        return (len(arrivals) - 1) / (arrivals[-1] - arrivals[0])

    async def prefill(self, ids: Sequence[int]) -> float:
        _, ended_s = self._complete(ids, 1)
        return len(ids) / ended_s

    def _complete(self, ids: Sequence[int], tokens: int) -> tuple[list[float], float]:
        """Exactly `tokens` greedy tokens after `ids`: seconds to each, and to the end."""
        arrivals: list[float] = []
        own: dict[str, float] = {}

        def on_chunk(chunk: Any) -> bool:
            now = time.perf_counter()
            if isinstance(chunk, (str, bytes)):
                chunk = json.loads(chunk)
            if "choices" not in chunk:
                raise RuntimeError(f"llama.cpp: {chunk}")
            if chunk["choices"][0]["finish_reason"] is None:
                arrivals.append(now - began)
            own.update(chunk.get("timings", {}))
            return False

        request = {
            "prompt": list(ids), "n_predict": tokens, "temperature": 0.0, "ignore_eos": True,
            "cache_prompt": False, "stream": True,
        }  # fmt: skip
        began = time.perf_counter()
        self._server.handle_completions(request, on_chunk)
        ended = time.perf_counter() - began
        if own.get("predicted_n") != tokens or own.get("prompt_n") != len(ids):
            raise RuntimeError(f"llama.cpp was asked for {len(ids)} + {tokens} tokens and did {own}")
        return arrivals, ended
