"""A real run that was recorded: three generations in the background and short asks, with a real model on a
CPU, on a machine that was not free. See `tests/data/record_scene.py`, which records it anew if the format of
traces changes, or the scheduler decides otherwise.
"""

from pathlib import Path

import pytest

from coro_rt import QoS
from coro_rt.schedulers import simulate
from coro_rt.trace.reader import Trace
from coro_rt.trace.recorded import Recorded
from coro_rt.trace.replay import replay

SCENE = Path(__file__).parents[1] / "data" / "scene.jsonl.gz"


def test_a_replay_of_it_decides_exactly_as_recorded() -> None:
    found = replay(Trace(SCENE))
    assert not found, (found.broke_off, [str(difference) for difference in found.first])
    assert found.complete
    assert found.decisions > 5_000


@pytest.mark.parametrize("level", [QoS.USER_INTERACTIVE, QoS.BACKGROUND])
def test_simulated_waits_are_within_fifteen_percent_of_the_recorded_ones(level: QoS) -> None:
    recorded = Recorded(Trace(SCENE))
    was, now = recorded.outcome.waiting_s[level], simulate(recorded.workload).waiting_s[level]
    assert now.jobs == was.jobs > 10
    assert now.mean == pytest.approx(was.mean, rel=0.15)
