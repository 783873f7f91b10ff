"""llama.cpp compiled for this machine, behind a pipe: a script for the Python of the peer's own environment.

Not imported by coro_rt: it runs where `llama_cpp` (llama-cpp-python, built with GGML_NATIVE) is installed.
A request is a line of JSON on standard input, the answer a line on standard output. Timing is done here,
around llama.cpp's own calls; between requests the process sleeps in `readline`. Requests, by `do`:

    info     → info, llama.cpp's own line about instruction sets
    open     model, threads, flash, ubatch, context → number (of the context)
    decode   number, ids, tokens → rate, ids         prefill   number, ids → rate
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from typing import Any

import llama_cpp as cpp  # type: ignore[import-not-found, unused-ignore]


class Context:
    """A model in memory with one set of settings."""

    models: dict[str, Any] = {}  # noqa: RUF012 (shared by contexts on purpose: weights are loaded once)

    def __init__(self, model: str, threads: int, flash: bool, ubatch: int, context: int) -> None:
        if model not in self.models:
            params = cpp.llama_model_default_params()
            self.models[model] = cpp.llama_model_load_from_file(model.encode(), params)
        params = cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, 2048, ubatch
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = int(flash)
        params.no_perf = True
        self._context = cpp.llama_init_from_model(self.models[model], params)
        if not self._context:
            raise RuntimeError(f"llama.cpp cannot open {model}")
        self._memory = cpp.llama_get_memory(self._context)
        self._sampler = cpp.llama_sampler_init_greedy()
        self._read: list[int] = []

    def decode(self, ids: list[int], tokens: int) -> tuple[float, list[int]]:
        """What is in memory of the prompt is used again: only the tokens after it are timed."""
        # all but the last token, whose logits are wanted
        if self._read != ids or not cpp.llama_memory_seq_rm(self._memory, 0, len(ids) - 1, -1):
            cpp.llama_memory_clear(self._memory, True)
            self._step(ids[:-1])
            self._read = ids
        found = [self._step(ids[-1:])]
        began = time.perf_counter()
        while len(found) < tokens:
            found.append(self._step(found[-1:]))
        return (tokens - 1) / (time.perf_counter() - began), found

    def prefill(self, ids: list[int]) -> float:
        self._read = []
        cpp.llama_memory_clear(self._memory, True)
        began = time.perf_counter()
        self._step(ids)
        return len(ids) / (time.perf_counter() - began)

    def _step(self, ids: list[int]) -> int:
        """Read `ids`; the greedy token after the last, the only one whose logits are computed."""
        if not ids:
            return 0
        array = (ctypes.c_int32 * len(ids))(*ids)
        if code := cpp.llama_decode(self._context, cpp.llama_batch_get_one(array, len(ids))):
            raise RuntimeError(f"llama_decode gave {code}")
        return int(cpp.llama_sampler_sample(self._sampler, self._context, -1))


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what llama.cpp prints is no answer
    cpp.llama_backend_init()
    contexts: list[Context] = []
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        answer: dict[str, Any] = {}
        try:
            if do == "info":
                answer["info"] = " ".join(cpp.llama_print_system_info().decode().split())
            elif do == "open":
                contexts.append(Context(**request))
                answer["number"] = len(contexts) - 1
            elif do == "decode":
                context = contexts[request["number"]]
                answer["rate"], answer["ids"] = context.decode(request["ids"], request["tokens"])
            elif do == "prefill":
                answer["rate"] = contexts[request["number"]].prefill(request["ids"])
        except Exception as error:  # told to the parent, which raises it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
