"""Snapdragon 8 Gen 3 (SM8650), a phone's chip of 2023. Copy this file to describe another chip.

Sources, by the marks behind the numbers (what is *assumed* has none, and says how it was chosen):

[H]  Chen et al., "Characterizing Mobile SoC for Accelerating Heterogeneous LLM Inference", SOSP 2025
     (HeteroInfer; arXiv 2501.14794, as "HeteroLLM" in its first version): memory, GPU, synchronising, power.
[T]  Wei et al., "T-MAN: Enabling End-to-End Low-Bit LLM Inference on NPUs via Unified Table Lookup",
     arXiv 2511.11248: memory to the NPU (table 2), watts and joules of whole phones (table 3).
[Q]  Qualcomm's claims for the successor: a CPU 45 % faster, or taking 44 % less power; a GPU 40 % faster, or
     taking 40 % less.
[S]  Measurements on a Galaxy S25+: a time constant of 540 s, throttled from 42 °C on
     (r/programming, November 2025, "predictive thermal management").
"""

from coro_rt.schedulers.soc.chip import Chip, Heat, Memory, Processor, frequencies

# [Q]: 1.45 times as fast for the same power, or 0.56 of the power for the same speed, lie on one curve:
# log(0.56) / log(1 / 1.45) = 1.56; for the GPU log(0.6) / log(1 / 1.4) = 1.52.
EXPONENT = 1.55

# Assumed: what the rest of a phone takes with its screen on while [T] reads its battery; not the chip's.
PHONE_W = 1.5
# Assumed: interconnect, system cache and the CPU core that feeds the others, while anything runs.
AWAKE_W = 0.5

SNAPDRAGON_8_GEN_3 = Chip(
    name="snapdragon-8-gen-3",
    title="Snapdragon 8 Gen 3 (phone)",
    processors=(
        Processor(
            name="big",
            title="1 Cortex-X4 and 5 Cortex-A720",
            # [T]: 0.196 J a token at 8.22 W are 42 tokens/s of BitNet-2B, 2.08e9 weights besides its table.
            operations={"int4": 0.174e12, "int8": 0.174e12},
            bandwidth=43e9,  # [H]: 40 to 45 GB/s for any one processor
            # [T]: 8.22 W for the phone, both reading and writing.
            states=frequencies(8.22 - PHONE_W - AWAKE_W, EXPONENT),
            stalled=0.8,  # [T]: the same watts reading and writing; threads that wait for memory spin
            idle_w=0.02,  # assumed
        ),
        Processor(
            name="little",
            title="2 Cortex-A520",
            # Assumed: of the big ones' by cores, frequency and width of the vector units (2 x 2.3 GHz of half
            # the width, against 3.3 + 3 x 3.2 + 2 x 3.0 GHz), and the watts by a third of the joules.
            operations={"int4": 0.021e12, "int8": 0.021e12},
            bandwidth=10e9,  # assumed
            states=frequencies(0.25, EXPONENT),
            stalled=0.8,
            idle_w=0.01,
        ),
        Processor(
            name="gpu",
            title="Adreno 750",
            operations={"int4": 1.0e12, "int8": 1.0e12},  # [H]: about 1 of the 2.8 TFLOPS of the data sheet
            bandwidth=43.3e9,  # [H], writing
            step_s=0.0035,  # [H]: InternLM-1.8B's 51.1 tokens/s, less 0.96 GB at 59.5 GB/s
            states=frequencies(4.34 - AWAKE_W, EXPONENT),  # [H]: 4.34 W on the GPU alone
            stalled=0.5,  # assumed
            idle_w=0.02,  # assumed
            give_way_s=0.003,  # a submission of ours; two are in flight
        ),
        Processor(
            name="npu",
            title="Hexagon",
            # [T]: 0.0073 J a token at 4.96 W are 679 tokens/s of BitNet-2B with 4-bit weights in QNN.
            operations={"int4": 2.83e12, "int8": 2.83e12},
            bandwidth=59e9,  # [T], by DMA
            step_s=0.0035,  # as the GPU: both take part in a step of [H]
            states=frequencies(4.96 - PHONE_W - AWAKE_W - 0.2, EXPONENT),  # [T], reading; memory takes 0.2 W
            # [T], writing: 4.72 W, of which 1.5 for the phone, 0.5 awake, 1.5 for 48 GB/s leave 1.2 of 2.8 W.
            stalled=0.4,
            idle_w=0.01,  # assumed
            give_way_s=0.003,  # a layer group of ours
        ),
    ),
    memory=Memory(
        bandwidth=61.9e9,  # [H], the most that was measured, of 68 to 77 GB/s on paper
        joules_per_byte=32e-12,  # assumed: 4 pJ a bit; figures for LPDDR4 to LPDDR5X with I/O are 3 to 6
    ),
    heat=Heat(
        limit_c=42.0,  # [S]
        settles_s=540.0,  # [S]
        kelvin_per_watt=5.0,  # assumed: a phone without a fan gets rid of 3 to 4 W; these are 3.4 W
    ),
    idle_w=0.03,  # assumed: asleep, memory refreshing itself
    awake_w=AWAKE_W,
    battery_j=5.4 * 3.85 * 3600,  # the OnePlus 12 of [T]: 5,400 mAh
)
