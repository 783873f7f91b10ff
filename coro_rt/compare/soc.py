"""A phone's CPU, GPU and NPU together, simulated: what sharing work among them can bring, and what it cannot.

The scheduler, its policies and placement are the real ones, driven by the simulator; the chip is a model
whose numbers have sources, and which is held against published figures (docs/soc.md). Reading a prompt is
arithmetic, and the processors add up, as far as they are equally fast. Writing is bound by the memory that
they share.
"""

from __future__ import annotations

from coro_rt.compare.statistics import Figures
from coro_rt.schedulers.pace import CHUNK
from coro_rt.schedulers.qos import QoS
from coro_rt.schedulers.soc import get_chip, get_model
from coro_rt.schedulers.soc.simulation import simulate_on
from coro_rt.schedulers.workload import Rows, Workload, WorkloadJob

WHAT = "jobs per minute, simulated phone"
TOGETHER = "all together"

CHIP, MODEL = "snapdragon-8-gen-3", "llama-3.2-3b"
PROCESSORS = {"cpu": "big", "gpu": "gpu", "npu": "npu"}
WORKLOADS = {"reading": (400, 2), "chatting": (200, 60)}
"""Tokens that a job reads and writes: finding things in documents, and conversations."""
JOBS = 12


def measure(figures: Figures) -> None:
    """Each device alone, and together, by workload: "device, workload"."""
    for name, (read, written) in WORKLOADS.items():
        for device, processor in PROCESSORS.items():
            figures.add(WHAT, f"{device}, {name}", "per min", _per_minute([processor], read, written))
        together = _per_minute(list(PROCESSORS.values()), read, written)
        figures.add(WHAT, f"{TOGETHER}, {name}", "per min", together)


def _per_minute(processors: list[str], read: int, written: int) -> float:
    steps = (Rows(0, read, CHUNK), Rows(0, written, 1))
    jobs = tuple(WorkloadJob(f"job {number + 1}", 0.0, steps, QoS.UTILITY, batch=0) for number in range(JOBS))
    workload = Workload(jobs, batches=(get_model(MODEL),))
    return JOBS / simulate_on(get_chip(CHIP), workload, on=processors).ended_s * 60
