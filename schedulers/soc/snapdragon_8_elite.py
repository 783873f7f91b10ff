"""Snapdragon 8 Elite (SM8750), a phone's chip of 2024. All its eight cores are big.

Sources, by the marks behind the numbers (what is *assumed* has none, and says how it was chosen):

[A]  Qualcomm AI Hub Models, `perf.yaml` of llama_v3_2_1b/3b_instruct and llama_v3_8b_instruct, w4a16 in
     Genie on the 8 Elite QRD; its graphs attend to all 4,096 positions of their context, whatever is in them.
[M]  alibaba/MNN, pull request 4633: Qwen3-0.6B in 4 bits on a SM8750, CPU, GPU and NPU.
[H]  Chen et al., SOSP 2025 (see snapdragon_8_gen_3.py).
[G]  The maker's figures at the launch (geektopia.es, 22 October 2024): LPDDR5X at 10,600 MT/s, 84.8 GB/s.

Nobody has published watts of language models on it. Those of the 8 Gen 3 are taken, as the maker claims more
speed for the same power.
"""

from coro_rt.schedulers.soc.chip import Chip, Heat, Memory, Processor, frequencies
from coro_rt.schedulers.soc.snapdragon_8_gen_3 import AWAKE_W, EXPONENT, SNAPDRAGON_8_GEN_3

_BIG, _GPU, _NPU = (SNAPDRAGON_8_GEN_3.processor(name) for name in ("big", "gpu", "npu"))

SNAPDRAGON_8_ELITE = Chip(
    name="snapdragon-8-elite",
    title="Snapdragon 8 Elite (phone)",
    processors=(
        Processor(
            name="big",
            title="8 Oryon",
            operations={"int4": 0.296e12, "int8": 0.296e12},  # [M]: 336 tokens/s of 0.44e9 weights
            bandwidth=45e9,  # [H]: 40 to 45 GB/s for any one processor
            step_s=0.0028,  # [M]: 94.3 tokens/s, less 0.35 GB at that rate
            states=frequencies(_BIG.states[0].watts, EXPONENT),
            stalled=_BIG.stalled,
            idle_w=0.02,  # assumed
        ),
        Processor(
            name="gpu",
            title="Adreno 830",
            operations={"int4": 1.31e12, "int8": 1.31e12},  # [M]: 1,491 tokens/s
            bandwidth=45e9,  # [H]
            step_s=0.0062,  # [M]: 71.4 tokens/s, less 0.35 GB at that rate
            states=frequencies(_GPU.states[0].watts, EXPONENT),
            stalled=_GPU.stalled,
            idle_w=0.02,  # assumed
            give_way_s=0.003,  # a submission of ours
        ),
        Processor(
            name="npu",
            title="Hexagon",
            operations={"int4": 11e12, "int8": 11e12},  # [A]: the 3B's first 128 tokens in 88 ms
            # [A]: the lines through the 1B's 53.6 and the 8B's 12.9 tokens/s: 0.83 and 4.76 GB a token.
            bandwidth=66.9e9,
            step_s=0.0062,
            states=frequencies(_NPU.states[0].watts, EXPONENT),
            stalled=_NPU.stalled,
            idle_w=0.01,  # assumed
            give_way_s=0.003,  # a layer group of ours
        ),
    ),
    memory=Memory(
        bandwidth=0.81 * 84.8e9,  # [G], by the part that [H] measured of 76.8 GB/s on the 8 Gen 3
        joules_per_byte=SNAPDRAGON_8_GEN_3.memory.joules_per_byte,
    ),
    heat=Heat(limit_c=42.0, settles_s=540.0, kelvin_per_watt=5.0),  # as the 8 Gen 3
    idle_w=0.03,  # assumed
    awake_w=AWAKE_W,
    battery_j=4.9 * 3.85 * 3600,  # a Galaxy S25+: 4,900 mAh
)
