"""A policy of one's own, compared with ours: the same hour of work under each, in virtual time.

To try it on a workload of your own, or on a recorded one (`coro-rt chat --record run.jsonl.gz`):

    coro-rt simulate run.jsonl.gz --policy dynamic --policy custom_policy:ShortestFirst
"""

from random import Random

from rich.console import Console
from rich.table import Table

from coro_rt import Policy, QoS
from coro_rt.schedulers import Entry, Run, Workload, WorkloadJob, simulate


class ShortestFirst(Policy):
    """key = ready_since + 10 * predicted seconds left: short jobs overtake long ones, but waiting counts."""

    name = "shortest"

    def key(self, job: Entry, now: float) -> float:
        return job.ready_since + 10 * job.predicted_seconds_left


def an_hour() -> Workload:
    """Questions every ten seconds, a translation every minute, and summaries in the background."""
    random = Random(1)
    jobs: list[WorkloadJob] = []

    def every(gap_s: float, name: str, qos: QoS, mean_s: float, within_s: float) -> None:
        at = random.expovariate(1 / gap_s)
        while at < 3600:
            seconds = random.expovariate(1 / mean_s)
            jobs.append(
                WorkloadJob(name, at, (Run(seconds),), qos, predicted_s=seconds, deadline_s=at + within_s)
            )
            at += random.expovariate(1 / gap_s)

    every(10, "answer", QoS.USER_INTERACTIVE, mean_s=2, within_s=10)
    every(60, "translation", QoS.USER_INITIATED, mean_s=12, within_s=60)
    every(120, "summary", QoS.BACKGROUND, mean_s=40, within_s=1800)
    return Workload(tuple(jobs))


def main() -> None:
    workload = an_hour()
    table = Table("policy", "answers", "P99", "translations", "P99", "missed", "switches", title="waiting")
    for policy in ("fifo", "fair", "dynamic", ShortestFirst()):
        outcome = simulate(workload, policy)
        answers, translations = (
            outcome.waiting_s[QoS.USER_INTERACTIVE], outcome.waiting_s[QoS.USER_INITIATED]
        )  # fmt: skip
        table.add_row(
            outcome.policy,
            *(f"{wait:.2f} s" for wait in (answers.mean, answers.p99, translations.mean, translations.p99)),
            str(outcome.missed_deadlines),
            f"{outcome.switches:,}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
