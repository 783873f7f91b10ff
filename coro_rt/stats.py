"""The runtime at one moment, as one frozen object."""

from collections.abc import Mapping
from dataclasses import dataclass

from coro_rt.energy.account import DeviceEnergy
from coro_rt.memory.usage import MemoryUse


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since the runtime was opened, and what there is now."""

    jobs_ready: int
    jobs_running: int
    jobs_waiting: int
    jobs_done: int
    switches: int  # a worker went from one job to another
    preemptions: int  # of these: the first one gave way before its time slice was over
    decisions: int  # a worker asked the scheduler who runs next
    suspensions: int  # a launch gave way half-done
    joint_launches: int  # launches that ran as one with others'
    rides: int  # and how many others: rides / joint_launches + 1 is the mean number of members
    device_losses: int  # times that a device was fenced: see DeviceLost
    switch_cost_s: float  # mean of a switch: putting back, deciding, taking up; 0.0 before the first
    device_busy_s: Mapping[str, float]  # by the device's name: seconds with a job on it
    energy: Mapping[str, DeviceEnergy]  # by the device's name
    memory_used: int  # bytes; without what is only kept in case it is needed again
    memory_budget: int | None  # None: unlimited
    memory: MemoryUse  # by what it is for
