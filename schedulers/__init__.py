"""Decisions: what runs next, and where. Pure: no threads, no clock, no arrays, no input or output."""

if __name__ != "coro_rt.schedulers":  # one file, one name
    raise ImportError("import coro_rt.schedulers, not " + __name__)

from coro_rt.schedulers.backlog import Backlog
from coro_rt.schedulers.choice import Choice, Option, Reason, Work
from coro_rt.schedulers.dynamic import Dynamic
from coro_rt.schedulers.edf import Edf
from coro_rt.schedulers.eevdf import Eevdf
from coro_rt.schedulers.ejection import Ejection
from coro_rt.schedulers.entry import Entry, Grant, State
from coro_rt.schedulers.errors import DeadlockError, SchedulerError
from coro_rt.schedulers.explanation import Explanation, Known, Ran
from coro_rt.schedulers.fair import Fair
from coro_rt.schedulers.fifo import Fifo
from coro_rt.schedulers.laxity import Laxity
from coro_rt.schedulers.mlfq import Mlfq
from coro_rt.schedulers.outcome import JobOutcome, Outcome, Span, Waiting
from coro_rt.schedulers.placement import Placement, Traits
from coro_rt.schedulers.policy import Policy
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.powersave import PowerSave
from coro_rt.schedulers.profile import Curve, Profile
from coro_rt.schedulers.qos import QoS
from coro_rt.schedulers.registry import POLICIES, get_policy
from coro_rt.schedulers.scheduler import Scheduler
from coro_rt.schedulers.simulation import simulate
from coro_rt.schedulers.strict import Strict
from coro_rt.schedulers.workload import (
    BatchTiming,
    Change,
    DeviceTiming,
    Milestone,
    PowerChange,
    Predict,
    Rows,
    Run,
    SeenLaunch,
    Wait,
    Workload,
    WorkloadJob,
)

__all__ = [
    "POLICIES",
    "Backlog",
    "BatchTiming",
    "Change",
    "Choice",
    "Curve",
    "DeadlockError",
    "DeviceTiming",
    "Dynamic",
    "Edf",
    "Eevdf",
    "Ejection",
    "Entry",
    "Explanation",
    "Fair",
    "Fifo",
    "Grant",
    "JobOutcome",
    "Known",
    "Laxity",
    "Milestone",
    "Mlfq",
    "Option",
    "Outcome",
    "Placement",
    "Policy",
    "PowerChange",
    "PowerSave",
    "PowerState",
    "Predict",
    "Profile",
    "QoS",
    "Ran",
    "Reason",
    "Rows",
    "Run",
    "Scheduler",
    "SchedulerError",
    "SeenLaunch",
    "Span",
    "State",
    "Strict",
    "Traits",
    "Wait",
    "Waiting",
    "Work",
    "Workload",
    "WorkloadJob",
    "get_policy",
    "simulate",
]
