"""Ryzen AI 7 350 (Krackan Point), a laptop's chip of 2025.

Sources, by the marks behind the numbers (what is *assumed* has none, and says how it was chosen):

[F]  FastFlowLM, docs/benchmarks, versions 0.9.8 (llama3_results.md: tokens/s at 1k, watts, time to the first
     token) and 0.9.32 (qwen2.5_results.md), a Ryzen AI 7 350 with 32 GB: NPU with FastFlowLM, GPU with LM
     Studio, CPU with Ollama, all with 4-bit weights.
[R]  ROCm/TheRock, issue 8186: 66 GB/s by memcpy on a Ryzen AI 9 HX 370.
[L]  ggml-org/llama.cpp, pull request 18666: some 1,035 tokens/s of Llama 8B read on the 40 compute units of a
     Radeon 8060S of the same architecture (RDNA 3.5).
[D]  AMD's product page: 28 W by default (15 to 54 W), at most 100 °C; Radeon 860M with 8 compute units.
[X]  hoivb612/llama.cpp, __readme__.txt: 307 tokens/s of Llama-3.2-3B read on 8 cores of a Snapdragon X Elite.
"""

from coro_rt.schedulers.soc.chip import Chip, Heat, Memory, Processor, frequencies

EXPONENT = 1.55  # as the phones' chips: see snapdragon_8_gen_3.py

RYZEN_AI_7_350 = Chip(
    name="ryzen-ai-7-350",
    title="Ryzen AI 7 350 (laptop)",
    processors=(
        Processor(
            name="big",
            title="4 Zen 5",
            # Assumed: half of what 8 cores reach in [X] (1.7e12); nobody publishes reading on this CPU.
            operations={"int4": 0.85e12, "int8": 0.85e12},
            bandwidth=43.5e9,  # [F]: Llama-3.2-3B, 22.6 tokens/s
            states=frequencies(18.0, EXPONENT),  # [F], writing
            stalled=0.9,  # the watts of [F] are of writing, which waits for memory
            idle_w=0.2,  # assumed
        ),
        Processor(
            name="little",
            title="4 Zen 5c",
            operations={"int4": 0.5e12, "int8": 0.5e12},  # assumed: the same cores at 3.5 instead of 5 GHz
            bandwidth=30e9,  # assumed
            states=frequencies(6.0, EXPONENT),  # assumed
            stalled=0.9,
            idle_w=0.1,  # assumed
        ),
        Processor(
            name="gpu",
            title="Radeon 860M",
            operations={"int4": 2.9e12, "int8": 2.9e12},  # [L], by compute units
            bandwidth=49.2e9,  # [F]: Llama-3.1-8B, 11.3 tokens/s
            states=frequencies(20.3, EXPONENT),  # [F]: 9.0 W, and 11.3 W of the CPU that feeds it
            stalled=0.9,
            idle_w=0.1,  # assumed
            give_way_s=0.003,  # a submission of ours
        ),
        Processor(
            name="npu",
            title="XDNA 2",
            operations={"int4": 3.77e12, "int8": 3.77e12},  # [F]: Qwen2.5-3B, 660 tokens/s at 1k
            # [F]: the line through the 1B's 41.5 and the 8B's 9.1 tokens/s: 0.73 and 4.35 GB a token.
            bandwidth=42.2e9,
            step_s=0.0068,
            states=frequencies(2.1, EXPONENT),  # [F]: 1.6 W, and 0.5 W of the CPU
            stalled=0.9,
            idle_w=0.05,  # assumed
            give_way_s=0.003,  # a layer group of ours
        ),
    ),
    memory=Memory(
        bandwidth=66e9,  # [R]
        joules_per_byte=48e-12,  # assumed: 6 pJ a bit, DDR5 in modules
    ),
    heat=Heat(
        limit_c=100.0,  # [D]
        kelvin_per_watt=75.0 / 28.0,  # [D]: 28 W for ever
        settles_s=60.0,  # assumed: a heat pipe and a fan
    ),
    idle_w=0.5,  # assumed
    awake_w=1.0,  # assumed
    battery_j=61 * 3600.0,  # a Framework Laptop 13: 61 Wh
)
