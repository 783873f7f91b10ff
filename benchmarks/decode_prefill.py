"""Decode and prefill beside llama.cpp, equal thread counts, through `llm.generate` with full logits.

Decode: 128 greedy tokens after a prompt of 16; tokens per second between the arrival of the first token and
the last, in the caller, on both sides. Prefill: a prompt of 512 tokens and one token of answer; 512 by the
wall time of the whole call. No speculation and no prompt cache on either side; both produce exactly the
number of tokens asked for. Each repetition takes ours and the peer's in turn, and the order changes from
one to the next. Settings of the peer: the fastest of a sweep over flash attention and batch sizes
(peer.py).
"""

from __future__ import annotations

import time
from typing import Any

import coro_rt
from coro_rt.llm.catalog import resolve

from . import peer
from .hosts import run_on
from .measure import Claim, Options, Report, Row
from .prompts import text_ids

PROMPT, DECODED, READ = 16, 128, 512


def run(options: Options) -> Report:
    """Rows for each thread count; the peer's columns stay empty where it is not installed."""
    report = Report("decode_prefill", "decode and prefill through llm.generate", peer="llama.cpp")
    if peer.available():
        report.notes.append(f"llama.cpp says: {peer.system_info()}")
        report.details["peer_system_info"] = peer.system_info()
    else:
        report.notes.append(peer.MISSING)
    for threads in options.threads:
        run_on(options.backends[0], _measure, options, threads, report)
    return report


async def _measure(options: Options, threads: int, report: Report) -> None:
    repeat = max(options.repeat, 7)
    async with (
        coro_rt.open_runtime(threads=threads) as runtime,
        await runtime.load_model(options.model) as llm,
    ):
        short, long = text_ids(llm, PROMPT, 1), text_ids(llm, READ, 2)
        peers = peer.best(resolve(options.model), threads, long) if peer.available() else None
        decode = Row(f"decode, {threads} thread{'s'[: threads > 1]}", "tokens/s", [])
        prefill = Row(f"prefill of {READ}, {threads} thread{'s'[: threads > 1]}", "tokens/s", [])
        own_decode: list[float] = []
        own_prefill: list[float] = []
        texts: dict[str, str] = {}

        async def ours() -> None:
            times, texts["ours"], _ = await timed(llm, short, DECODED)
            decode.ours.append((DECODED - 1) / (times[-1] - times[0]))
            _, _, ended = await timed(llm, long, 1)
            prefill.ours.append(READ / ended)

        async def theirs() -> None:
            assert peers is not None
            answer = peers.decode.complete(short, DECODED)
            texts["peer"] = answer.text
            decode.peer.append(answer.decode_rate)
            own_decode.append((DECODED - 1) / answer.own["predicted_ms"] * 1e3)
            answer = peers.prefill.complete(long, 1)
            prefill.peer.append(READ / answer.ended_s)
            own_prefill.append(READ / answer.own["prompt_ms"] * 1e3)

        await ours()  # warm: kernels compiled, pages touched
        for row in (decode, prefill):
            row.ours.clear()
        for turn in range(repeat):
            sides = [ours, theirs] if peers else [ours]
            for side in sides if turn % 2 else reversed(sides):
                await side()
        report.rows += [decode, prefill]
        if peers:
            for row in (decode, prefill):
                assert row.ratio is not None
                report.claims.append(Claim(f"{row.what}: times llama.cpp's", row.ratio, 0.8, at_least=True))
            report.details[f"threads_{threads}"] = {
                "peer_settings": {"decode": peers.decode.settings, "prefill": peers.prefill.settings},
                "peer_sweep": peers.sweep,
                "peer_own_timings": {"decode": own_decode, "prefill": own_prefill},
                "characters_equal": _common(texts["ours"], texts["peer"]),
                "characters": len(texts["peer"]),
            }
            report.notes.append(
                f"{threads} thread{'s'[: threads > 1]}: {_words(peers.decode.settings)} for decode, "
                f"{_words(peers.prefill.settings)} for prefill; of both answers the first "
                f"{_common(texts['ours'], texts['peer'])} of {len(texts['peer'])} characters are equal"
            )


async def timed(llm: Any, ids: list[int], tokens: int) -> tuple[list[float], str, float]:
    """Arrivals in seconds from the call, the text, and the end."""
    began = time.perf_counter()
    arrivals, text = [], []
    async with llm.generate(ids, max_tokens=tokens, temperature=0.0, ignore_eos=True) as stream:
        async for token in stream:
            arrivals.append(time.perf_counter() - began)
            text.append(token.text)
    ended = time.perf_counter() - began
    if len(arrivals) != tokens:
        raise RuntimeError(f"coro_rt was asked for {tokens} tokens and gave {len(arrivals)}")
    return arrivals, "".join(text), ended


def _words(settings: dict[str, Any]) -> str:
    return f"flash attention {'on' if settings['flash_attention'] else 'off'}, ubatch {settings['ubatch']}"


def _common(one: str, other: str) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
