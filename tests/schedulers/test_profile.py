"""What a profile learns: near the truth under noise, unmoved by outliers, and nothing from nonsense."""

import json
import random
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coro_rt.schedulers import Curve, Profile, SchedulerError
from coro_rt.schedulers.profile import MOST_CURVES


def learned(samples: list[tuple[float, float]]) -> Curve:
    curve = Curve()
    for number, (size, seconds) in enumerate(samples):
        curve.learn(size, seconds, float(number))
    return curve


@settings(deadline=None)
@given(
    st.floats(1e-5, 1e-1),
    st.floats(1e-7, 1e-3),
    st.floats(0.0, 0.1),
    st.integers(0, 2**32),
)
def test_after_twenty_samples_the_error_is_near_the_noise(
    fixed_s: float, per_unit_s: float, noise: float, seed: int
) -> None:
    rng = random.Random(seed)
    sizes = [2.0 ** rng.uniform(3, 11) for _ in range(40)]
    samples = [(x, (fixed_s + per_unit_s * x) * rng.lognormvariate(0, noise)) for x in sizes]
    curve = learned(samples[:20])
    errors = [abs(curve.seconds(x) - seconds) / seconds for x, seconds in samples[20:]]
    assert sum(errors) / len(errors) < 0.04 + 1.6 * noise


def test_a_curve_that_is_no_line_is_followed_piece_by_piece() -> None:
    rng = random.Random(3)

    def truth(x: float) -> float:  # a prompt: the further into it, the more there is to look back at
        return 0.005 + 2e-4 * x + 2e-7 * x * x

    sizes = [2.0 ** rng.uniform(4, 12) for _ in range(80)]
    curve = learned([(x, truth(x)) for x in sizes[:40]])
    errors = [abs(curve.seconds(x) / truth(x) - 1) for x in sizes[40:]]
    assert sum(errors) / len(errors) < 0.1


def test_the_first_run_may_compile_something_and_hardly_counts() -> None:
    curve = learned([(100.0, 5.0)] + [(100.0, 0.01)] * 4)
    assert curve.seconds(100.0) == pytest.approx(0.01, rel=0.1)


def test_a_launch_that_lost_its_core_moves_nothing_much() -> None:
    curve = learned([(100.0, 0.01)] * 20 + [(100.0, 1.0)])
    assert curve.seconds(100.0) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("odd", [0.001, 10.0])
def test_what_is_far_off_is_believed_when_it_comes_again_and_again(odd: float) -> None:
    curve = learned([(100.0, 0.1)] * 20 + [(100.0, odd)])
    assert curve.seconds(100.0) == pytest.approx(0.1)
    for number in range(3):
        curve.learn(100.0, odd, 30.0 + number)
    assert curve.seconds(100.0) == pytest.approx(odd, rel=0.1)


def test_a_machine_that_gets_slower_is_followed() -> None:
    curve = learned([(100.0, 0.01)] * 30 + [(100.0, 0.02)] * 20)
    assert curve.seconds(100.0) == pytest.approx(0.02, rel=0.15)


def test_one_sample_says_something_about_all_sizes_and_nothing_takes_nothing() -> None:
    curve = learned([(100.0, 0.01)])
    assert curve.seconds(1000.0) == pytest.approx(0.1, rel=0.05)
    assert curve.seconds(0.0) == 0.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(1e-3, 1e12), st.floats(1e-9, 1e6)), min_size=1, max_size=60))
def test_whatever_was_seen_a_prediction_is_a_number_from_zero_on(samples: list[tuple[float, float]]) -> None:
    curve = learned(samples)
    for size in (1e-3, 1.0, 1e6, 1e12, *(size for size, _ in samples)):
        assert 0.0 <= curve.seconds(size) < inf


def test_contention_is_learned_from_what_ran_beside_others_and_leaves_the_rest_alone() -> None:
    profile = Profile()
    for _ in range(10):
        profile.learn("k", "cpu", 100.0, 0.01, 0.0)
    for _ in range(40):
        profile.learn("k", "cpu", 100.0, 0.016, 1.0, beside=2, contention=0.0)
    curve = profile.curve("k", "cpu")
    assert curve is not None
    assert curve.seconds(100.0) == pytest.approx(0.01)
    assert curve.contention == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize("seconds", [nan, inf, -0.001])
def test_seconds_that_cannot_be_are_refused(seconds: float) -> None:
    profile = Profile()
    with pytest.raises(SchedulerError, match="seconds are a number from 0 on"):
        profile.learn("k", "cpu", 1.0, seconds, 0.0)
    assert len(profile) == 0


@pytest.mark.parametrize("size", [nan, inf, -1.0, 0.0])
def test_sizes_that_cannot_be_are_refused(size: float) -> None:
    with pytest.raises(SchedulerError, match="a size is a number above 0"):
        Profile().learn("k", "cpu", size, 0.1, 0.0)


def test_the_curve_that_was_not_used_for_longest_goes_first() -> None:
    profile = Profile()
    for number in range(MOST_CURVES):
        profile.learn(str(number), "cpu", 1.0, 0.1, 0.0)
    profile.learn("0", "cpu", 1.0, 0.1, 0.0)
    profile.learn("new", "cpu", 1.0, 0.1, 0.0)
    assert len(profile) == MOST_CURVES
    assert profile.curve("0", "cpu") is not None
    assert profile.curve("1", "cpu") is None


def test_what_was_learned_is_kept_as_data_to_the_last_bit() -> None:
    rng = random.Random(5)
    profile = Profile()
    for number in range(50):
        size = rng.uniform(1, 1000)
        device = rng.choice(("cpu", "gpu"))
        profile.learn("k", device, size, size * 1e-4, number, beside=number % 3, watts=2.0)
    again = Profile.from_data(json.loads(json.dumps(profile.as_data())))
    assert again.as_data() == profile.as_data()
    for _, device, curve in profile:
        other = again.curve("k", device)
        assert other is not None
        assert [other.seconds(x) for x in (1.0, 70.0, 1e4)] == [curve.seconds(x) for x in (1.0, 70.0, 1e4)]


CURVE = {
    "kernel": "k", "device": "cpu", "samples": 2, "sums": [1.0, 1.0, 1.0, 1.0, 1.0],
    "factors": [[3, 0.1, 2]], "noise": 0.01, "contention": None, "watts": 0.0,
}  # fmt: skip


def test_the_example_of_a_curve_is_one() -> None:
    assert len(Profile.from_data([CURVE])) == 1


@pytest.mark.parametrize(
    "damage",
    [
        {"kernel": 3},
        {"samples": 0},
        {"samples": True},
        {"sums": [1.0]},
        {"sums": [nan] * 5},
        {"sums": [-1.0] * 5},
        {"sums": ["1"] * 5},
        {"factors": [[3, 1e9, 2]]},
        {"factors": [[3, 0.1]]},
        {"factors": 3},
        {"noise": -1.0},
        {"contention": 99.0},
        {"contention": "much"},
        {"watts": -1.0},
        {"watts": None},
    ],
)
def test_a_damaged_curve_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(SchedulerError):
        Profile.from_data([{**CURVE, **damage}])


@pytest.mark.parametrize("data", [None, {}, "profile", [None], [{}], [CURVE] * (MOST_CURVES + 1)])
def test_what_is_no_profile_is_refused(data: object) -> None:
    with pytest.raises(SchedulerError):
        Profile.from_data(data)
