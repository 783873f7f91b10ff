"""A policy of one's own, and what it does: short jobs overtake long ones. In virtual time: it takes none."""

import anyio

from coro_rt import Policy, Runtime, open_runtime
from coro_rt.schedulers.entry import Entry
from coro_rt.testing import VirtualClock, sim_work


class ShortestFirst(Policy):
    """key = submitted_at + 10 * predicted seconds left: short jobs overtake long ones, but waiting counts."""

    name = "shortest"

    def key(self, job: Entry, now: float) -> float:
        return job.submitted_at + 10 * job.predicted_seconds_left


SECONDS = [1.0, 0.6, 0.8, 0.1, 0.2, 0.05]  # what the jobs take, in the order in which they are asked for


async def work(seconds: float, clock: VirtualClock) -> float:
    """A job that keeps the device busy; says when it was done."""
    await sim_work(seconds)
    return clock.now()


async def answers(policy: str | Policy) -> list[float]:
    """When each job is done."""
    done = [0.0] * len(SECONDS)
    clock = VirtualClock()

    async def ask(runtime: Runtime, i: int) -> None:
        done[i] = await runtime.run(work, SECONDS[i], clock, predicted_s=SECONDS[i])

    opening = open_runtime(policy=policy, devices=["sim"], clock=clock)
    async with opening as runtime, anyio.create_task_group() as tg:
        with clock.hold():  # nothing moves until all have asked
            for i in range(len(SECONDS)):
                tg.start_soon(ask, runtime, i)
                await anyio.wait_all_tasks_blocked()
    return done


async def main() -> None:
    for policy in ("fifo", ShortestFirst()):
        done = await answers(policy)
        name = policy if isinstance(policy, str) else policy.name
        times = ", ".join(f"{at:.2f}" for at in done)
        print(f"{name:>8}: done after {times} s; mean {sum(done) / len(done):.2f} s")


if __name__ == "__main__":
    anyio.run(main)
