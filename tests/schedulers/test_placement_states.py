"""The exhaustive check of `coro-rt bench placement`, a part of it: urgent jobs go to the best device."""

import pytest

from coro_rt.bench.states import check_all, states


@pytest.mark.parametrize("seed", [0, 1])
def test_no_urgent_job_ends_more_than_a_tenth_later_than_on_the_best_device(seed: int) -> None:
    wanted = list(states())
    assert len(wanted) > 5000
    found = check_all(wanted[seed * 13 :: 37], seed=seed)
    late = [one for one in found if one.later > 0.1]
    assert not late, f"{len(late)} of {len(found)}, the first is {late[0]}"
    assert len({one.chosen for one in found}) == 3
