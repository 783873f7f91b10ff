"""Earliest deadline first, with a constant bandwidth for each tenant."""

from math import inf

from coro_rt.schedulers.dynamic import TARGETS_S
from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.policy import Policy


class Edf(Policy):
    """key = deadline, or submitted_at + target[qos] where there is none (the targets of `dynamic`).

    (Liu and Layland, 1973.) The rule alone collapses under overload: whoever is late comes first, and makes
    the next one late. So each tenant has a server of constant bandwidth, as in Abeni and Buttazzo,
    "Integrating multimedia applications in hard real-time systems", 1998. Here that server is the upper
    level of the ready queue: a tenant with work gets share / (sum of the shares of all with work) of the
    device, a slice at a time, and deadlines are compared within it.

    Effect: if one tenant's deadlines can be met within its bandwidth, they are, without regard to levels, and
    whatever the others ask for: one that asks for more than its own is late alone. Who is late stays first
    within its tenant, so there is no bound but `max_wait_s`.
    """

    def key(self, job: Entry, now: float) -> float:
        deadline = job.deadline
        return deadline if deadline < inf else job.submitted_at + TARGETS_S[job.qos]
