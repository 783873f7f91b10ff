"""A phone's CPU, GPU and NPU together, simulated: what sharing work among them can bring, and what it cannot.

The scheduler and its policies are the real ones, driven by the simulator; the devices' speeds are
assumptions, of the order of what is published for models of three billion weights in 4 bits. Reading a prompt
is arithmetic, and the devices add up. Writing is bound by the memory that they share: while all write, each
has a third of it. Jobs are placed on the device that would end them first.
"""

from __future__ import annotations

from dataclasses import dataclass

from coro_rt.compare.statistics import Figures
from coro_rt.schedulers.qos import QoS
from coro_rt.schedulers.simulation import simulate
from coro_rt.schedulers.workload import DeviceTiming, Run, Workload, WorkloadJob

WHAT = "jobs per minute, simulated phone"
TOGETHER = "all together"


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second, alone."""

    reads: float
    writes: float


ASSUMED = {"cpu": Speed(60, 10), "gpu": Speed(250, 12), "npu": Speed(700, 12)}
WORKLOADS = {"reading": (400, 2), "chatting": (200, 60)}
"""Tokens that a job reads and writes: finding things in documents, and conversations."""
JOBS = 60


def measure(figures: Figures) -> None:
    """Each device alone, and together, by workload: "device, workload"."""
    for name, (read, written) in WORKLOADS.items():
        for device in ASSUMED:
            figures.add(WHAT, f"{device}, {name}", "per min", _per_minute([device], read, written))
        figures.add(WHAT, f"{TOGETHER}, {name}", "per min", _per_minute(list(ASSUMED), read, written))


def _per_minute(devices: list[str], read: int, written: int) -> float:
    seconds = {
        device: read / ASSUMED[device].reads + written / ASSUMED[device].writes * len(devices)
        for device in devices
    }
    ends = dict.fromkeys(devices, 0.0)
    jobs = []
    for at in range(JOBS):
        device = min(devices, key=lambda one: ends[one] + seconds[one])
        ends[device] += seconds[device]
        jobs.append(
            WorkloadJob(f"job {at + 1}", 0.0, (Run(seconds[device]),), qos=QoS.DEFAULT, device=device)
        )
    outcome = simulate(Workload(tuple(jobs), devices=dict.fromkeys(devices, DeviceTiming())))
    return JOBS / outcome.ended_s * 60
