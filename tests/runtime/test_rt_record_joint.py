"""Launches that run as one, recorded, replayed, and simulated."""

import json
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from rt_bus import Bus
from rt_tools import check_waits, simulated

import coro_rt
from coro_rt import QoS
from coro_rt.schedulers import POLICIES, Rows, simulate
from coro_rt.schedulers.soc import get_chip, get_model
from coro_rt.schedulers.soc.simulation import simulate_on
from coro_rt.testing import SimDevice
from coro_rt.trace.reader import Trace
from coro_rt.trace.recorded import Recorded
from coro_rt.trace.replay import replay

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The host makes no difference to what is recorded."""
    return "trio"


async def passengers(bus: Bus, seed: int, count: int, cancelled: float) -> None:
    """A job that starts passengers as time goes by: at all levels, with a row or with many."""
    choose = random.Random(seed)
    jobs = []
    for nth in range(count):
        await coro_rt.sleep(choose.expovariate(1 / 0.08))
        with coro_rt.qos(choose.choice(list(QoS))):
            rows, trips = choose.choice(((1, 12), (1, 6), (20, 1), (90, 1)))
            jobs.append(coro_rt.spawn(bus.passenger, f"{nth}", rows, trips))
        if choose.random() < cancelled:
            choose.choice(jobs).cancel()
    for job in jobs:
        with suppress(coro_rt.JobCancelled):
            await job


async def record(path: Path, seed: int, count: int, cancelled: float, policy: str = "dynamic") -> None:
    bus = Bus()
    device = SimDevice(quantum_s=0.0003)
    async with simulated(record=path, devices=[device], policy=policy) as (runtime, _):
        with coro_rt.qos(QoS.USER_INTERACTIVE):
            await runtime.run(passengers, bus, seed, count, cancelled)
        assert runtime.stats().rides > 0 or policy == "fifo"  # where nobody else gets between two launches


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_replay_of_shared_launches_decides_exactly_as_recorded(tmp_path: Path, policy: str) -> None:
    path = tmp_path / "trace.jsonl"
    await record(path, 1, 120, 0.2, policy)
    found = replay(Trace(path))
    assert not found, (found.broke_off, [str(difference) for difference in found.first])
    assert found.complete


async def test_a_recorded_run_is_tokens_of_a_model_on_a_chip(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    await record(path, 1, 60, 0.0)
    found = Recorded(Trace(path)).workload
    workload = replace(found, batches=(get_model("smollm2-135m"),) * len(found.batches))
    outcome = simulate_on(get_chip("snapdragon-8-gen-3"), workload)
    rows = sum(step.rows for job in found.jobs for step in job.steps if isinstance(step, Rows))
    assert outcome.tokens == rows > 0
    assert outcome.chip is not None
    assert outcome.chip.joules > outcome.chip.idle_joules


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("cancelled", [0.0, 0.1])
async def test_simulated_waits_for_shared_launches_are_within_fifteen_percent_of_the_recorded_ones(
    tmp_path: Path, seed: int, cancelled: float
) -> None:
    path = tmp_path / "trace.jsonl"
    await record(path, seed, 300, cancelled)
    recorded = Recorded(Trace(path))
    outcome = simulate(recorded.workload, "dynamic")
    # a cancel may come just before or just after a job's launch has ended
    check_waits(outcome, recorded.outcome, medians=not cancelled)
    assert outcome.service_s == pytest.approx(recorded.outcome.service_s, rel=0.02)


async def test_what_became_of_jobs_that_shared_launches_is_what_the_ledgers_say(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    bus = Bus()
    async with simulated(record=path) as (runtime, _), runtime.start(passengers, bus, 5, 150, 0.1) as job:
        await job.result()
        ledger = job.ledger
    stats = runtime.stats()
    outcome = Recorded(Trace(path)).outcome
    assert stats.rides > 50
    assert sum(job.served_s for job in outcome.jobs) == pytest.approx(ledger.device_s)
    assert sum(job.waited_s for job in outcome.jobs) == pytest.approx(ledger.waiting_s)
    assert (outcome.switches, outcome.decisions) == (stats.switches, stats.decisions)


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_recording_of_shared_launches_is_simulated_under_any_policy(
    tmp_path: Path, policy: str
) -> None:
    path = tmp_path / "trace.jsonl"
    await record(path, 2, 100, 0.2)
    workload = Recorded(Trace(path)).workload
    assert any(isinstance(step, Rows) for job in workload.jobs for step in job.steps)
    outcome = simulate(workload, policy)
    assert outcome.ejected is None
    assert simulate(workload, policy).jobs == outcome.jobs


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": None}, "batch 1 is named first here, so 'kind' says what it is"),
        ({"batch": 7}, "the next new batch is 1, not 7"),
        ({"batch": 0}, "'batch' is a whole number from 1 on, not 0"),
        ({"rows": "many"}, "'rows' is a whole number from 1 on, not 'many'"),
        ({"kind": {"rows": 10**9, "members": 1}}, "'rows' of a batch is a number from 1 to 100,000"),
        ({"kind": {"rows": 3, "members": 1, "costs": [1.0]}}, "'costs' of a batch are the seconds of 1 to 3"),
        ({"aboard": [[10**9, 1]]}, "'aboard' is a list of entries and their rows"),
    ],
)
async def test_what_cannot_be_about_a_batch_is_an_error_with_its_line(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    path = tmp_path / "trace.jsonl"
    await record(path, 1, 60, 0.0)
    read = [json.loads(line) for line in path.read_text().splitlines()]
    where = next(at for at, line in enumerate(read) if line.get("call") == "offer")
    read[where] |= change
    path.write_text("".join(json.dumps(line) + "\n" for line in read))
    with pytest.raises(coro_rt.TraceFileError, match=f"line {where + 1}: {said}"):
        replay(Trace(path))
