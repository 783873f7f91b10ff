"""llama.cpp, through the `xllamacpp` wheel: its server in this process, asked without HTTP.

It gets its best: one slot, no speculation, no prompt cache, and the flash-attention and batch settings that
a short sweep on this machine finds fastest. Timed where ours is: by the wall clock in the caller, when each
token arrives; its own `timings` are kept as a cross-check.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

try:
    import xllamacpp
except ImportError:  # the extra `bench`
    xllamacpp = None

MISSING = "llama.cpp is not here: install the extra `bench` (the package xllamacpp)"

SETTINGS = [(flash, ubatch) for flash in (True, False) for ubatch in (512, 128)]
"""What the sweep tries: flash attention, and rows in one step of a prompt."""


def available() -> bool:
    """Whether the wheel is installed."""
    return xllamacpp is not None


def system_info() -> str:
    """llama.cpp's own line about the instruction sets that it was built for and found."""
    return " ".join(xllamacpp.get_system_info().split())


@dataclass(frozen=True)
class Answer:
    """One completion. Times in seconds from the call; `own` is what the server says itself."""

    ended_s: float
    arrivals_s: list[float]
    text: str
    own: dict[str, float]

    @property
    def decode_rate(self) -> float:
        """Tokens per second between the first one and the last."""
        return (len(self.arrivals_s) - 1) / (self.arrivals_s[-1] - self.arrivals_s[0])


class LlamaCpp:
    """One server with one slot."""

    def __init__(self, model: Path, *, threads: int, flash: bool, ubatch: int, context: int = 2048) -> None:
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
        self.settings = {"threads": threads, "flash_attention": flash, "ubatch": ubatch, "batch": 2048}
        self._server = xllamacpp.Server(params)

    def complete(self, ids: list[int], tokens: int) -> Answer:
        """Exactly `tokens` greedy tokens after `ids`, blocking. Raises RuntimeError when there come fewer."""
        arrivals: list[float] = []
        texts: list[str] = []
        own: dict[str, float] = {}

        def on_chunk(chunk: Any) -> bool:
            now = time.perf_counter()
            if isinstance(chunk, (str, bytes)):
                chunk = json.loads(chunk)
            if "choices" not in chunk:
                raise RuntimeError(f"llama.cpp: {chunk}")
            choice = chunk["choices"][0]
            if choice["finish_reason"] is None:
                arrivals.append(now - began)
            texts.append(choice["text"])
            own.update(chunk.get("timings", {}))
            return False

        request = {
            "prompt": ids, "n_predict": tokens, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False,
            "stream": True,
        }  # fmt: skip
        began = time.perf_counter()
        self._server.handle_completions(request, on_chunk)
        ended = time.perf_counter() - began
        if own.get("predicted_n") != tokens or own.get("prompt_n") != len(ids):
            raise RuntimeError(f"llama.cpp was asked for {len(ids)} + {tokens} tokens and did {own}")
        return Answer(ended, arrivals, "".join(texts), own)


@dataclass(frozen=True)
class Peers:
    """The servers that were fastest: at decoding, and at reading a prompt. Often the same."""

    decode: LlamaCpp
    prefill: LlamaCpp
    sweep: list[dict[str, Any]]


def best(model: Path, threads: int, prompt: list[int], *, repeat: int = 3) -> Peers:
    """Try all SETTINGS, interleaved, and keep the fastest."""
    servers = [LlamaCpp(model, threads=threads, flash=flash, ubatch=ubatch) for flash, ubatch in SETTINGS]
    decode: list[list[float]] = [[] for _ in servers]
    prefill: list[list[float]] = [[] for _ in servers]
    for turn in range(repeat + 1):
        for at, server in enumerate(servers):
            rate = server.complete(prompt[:16], 64).decode_rate
            ended = server.complete(prompt, 1).ended_s
            if turn:  # the first is for warming up
                decode[at].append(rate)
                prefill[at].append(len(prompt) / ended)
    sweep = [
        server.settings | {"decode_tokens_per_s": median(one), "prefill_tokens_per_s": median(other)}
        for server, one, other in zip(servers, decode, prefill, strict=True)
    ]
    fastest = max(range(len(servers)), key=lambda at: median(decode[at]))
    reader = max(range(len(servers)), key=lambda at: median(prefill[at]))
    return Peers(servers[fastest], servers[reader], sweep)
