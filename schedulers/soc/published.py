"""What others have published of these chips, beside what the model says: its validation.

None of these points is one that a constant was taken from (those are named in the chips' files). A point with
a `why` does not come out within a fifth; it says what the model leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

from coro_rt.schedulers.soc.language_model import Load
from coro_rt.schedulers.soc.registry import get_chip, get_model
from coro_rt.schedulers.soc.roofline import joules, seconds, together_s

WITHIN = 0.2  # of what was published

READ, WRITE = "read", "write"


@dataclass(frozen=True, slots=True)
class Published:
    """Tokens per second that were published: `rows` tokens read in one step, or one written, behind so many
    positions, by processors that share the step among them."""

    chip: str
    on: tuple[str, ...]
    model: str
    what: str
    rows: int
    behind: int
    value: float
    source: str
    why: str = ""

    @property
    def load(self) -> Load:
        """The step."""
        return get_model(self.model).step([(self.rows, self.behind)])

    @property
    def modelled(self) -> float:
        """Tokens per second by the model."""
        chip = get_chip(self.chip)
        if len(self.on) > 1:
            return self.rows / together_s(chip, self.on, self.load)
        return self.rows / seconds(chip.processor(self.on[0]), self.load)

    @property
    def error(self) -> float:
        """How far the model is off, as a part of what was published."""
        return self.modelled / self.value - 1.0


_GEN_3, _ELITE, _RYZEN = "snapdragon-8-gen-3", "snapdragon-8-elite", "ryzen-ai-7-350"
_BOTH = ("gpu", "npu")
_HETERO = "HeteroInfer, SOSP 2025"
_HUB = "Qualcomm AI Hub Models, perf.yaml"
_FLM = "FastFlowLM 0.9.8"
_FRAMEWORK = "geerlingguy/ai-benchmarks, issue 33 (Ryzen AI 5 340)"
_LAYERS = "engines reach more with larger matrices and longer prompts; the model has one rate for all"

PUBLISHED = (
    Published(_GEN_3, _BOTH, "llama-3.1-8b", READ, 256, 0, 247.0, _HETERO),
    Published(_GEN_3, _BOTH, "internlm2-1.8b", READ, 256, 0, 1092.0, _HETERO),
    Published(_GEN_3, _BOTH, "llama-3.1-8b", WRITE, 1, 256, 14.0, _HETERO),
    Published(_GEN_3, ("gpu",), "llama-2-7b", WRITE, 1, 64, 12.5, "apache/tvm, pull request 16932 (MLC)"),
    Published(_GEN_3, ("npu",), "bitnet-2b", WRITE, 1, 1024, 35.2, "T-MAN, table 3 (QNN): 4.72 W / 0.134 J"),
    Published(_ELITE, ("npu",), "llama-3.2-3b", WRITE, 1, 4095, 23.5, _HUB),
    Published(_ELITE, ("npu",), "llama-3.2-1b", READ, 128, 3968, 128 / 0.0371, _HUB),
    Published(_ELITE, ("npu",), "llama-3.1-8b", READ, 128, 3968, 128 / 0.1594, _HUB),
    Published(_ELITE, ("gpu",), "llama-3.2-1b", WRITE, 1, 128, 48.8, "hedone21/llm_rs2, Galaxy S25, OpenCL"),
    Published(
        _ELITE, ("npu",), "qwen3-0.6b", WRITE, 1, 64, 68.5, "alibaba/MNN, pull request 4633",
        why="another engine: a step of MNN's takes 4 ms more beside its reading than one of Genie's",
    ),
    Published(
        _ELITE, ("npu",), "qwen3-0.6b", READ, 512, 0, 2667.0, "alibaba/MNN, pull request 4633",
        why="another engine, with products of its own, and a model with small matrices",
    ),
    Published(_RYZEN, ("big",), "llama-3.2-1b", WRITE, 1, 1024, 54.6, _FLM),
    Published(_RYZEN, ("big",), "llama-3.1-8b", WRITE, 1, 1024, 10.3, _FLM),
    Published(_RYZEN, ("gpu",), "llama-3.2-3b", WRITE, 1, 1024, 23.2, _FLM),
    Published(_RYZEN, ("npu",), "llama-3.2-3b", WRITE, 1, 1024, 18.3, _FLM),
    Published(_RYZEN, ("npu",), "llama-3.2-3b", READ, 1024, 0, 1024 / 1.81, _FLM),
    Published(_RYZEN, ("big",), "llama-3.2-3b", WRITE, 1, 64, 23.8, _FRAMEWORK),
    Published(_RYZEN, ("big",), "llama-3.1-8b", WRITE, 1, 64, 10.5, _FRAMEWORK),
    Published(_RYZEN, ("big",), "qwen2.5-14b", WRITE, 1, 64, 5.83, _FRAMEWORK),
    Published(
        _RYZEN, ("gpu",), "llama-3.2-1b", WRITE, 1, 1024, 28.7, _FLM,
        why="its own table falls from 28.7 to 19.0 from 1k to 2k: attention is slow there, not memory",
    ),
    Published(_RYZEN, ("npu",), "llama-3.2-1b", READ, 1024, 0, 1024 / 0.76, _FLM, why=_LAYERS),
    Published(_RYZEN, ("npu",), "llama-3.1-8b", READ, 1024, 0, 1024 / 3.04, _FLM, why=_LAYERS),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Saved:
    """The energy that several processors together take less than one alone for the same prompt."""

    chip: str
    model: str
    rows: int
    value: float
    source: str

    @property
    def modelled(self) -> float:
        """By the model: GPU and NPU at full speed, against the GPU alone."""
        chip = get_chip(self.chip)
        load = get_model(self.model).step([(self.rows, 0)])
        gpu, npu = chip.processor("gpu"), chip.processor("npu")
        alone_j = joules(chip, gpu, load, gpu.states[0])
        both_s = together_s(chip, _BOTH, load)
        power = gpu.states[0].watts + npu.states[0].watts + chip.awake_w
        both_j = power * both_s + load.bytes * chip.memory.joules_per_byte
        return 1.0 - both_j / alone_j


SAVED = Saved(_GEN_3, "llama-3.1-8b", 256, 0.55, _HETERO)
