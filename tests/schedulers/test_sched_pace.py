"""What a model's steps take, learned from those that were seen."""

import pytest

from coro_rt.schedulers.pace import CHUNK, Pace


def learned(*seen: tuple[int, float], times: int = 50) -> Pace:
    pace = Pace()
    for _ in range(times):
        for rows, seconds in seen:
            pace.learn(rows, seconds)
    return pace


def test_before_anything_is_known_a_few_rows_cost_little_more_than_one() -> None:
    pace = Pace()
    assert pace.seconds(1) < pace.seconds(4) < 1.5 * pace.seconds(1)
    assert pace.left_s(100, 100) == 0.0


def test_between_the_sizes_that_were_seen_the_time_grows_in_a_straight_line_and_never_falls() -> None:
    pace = Pace()
    pace.learn(1, 0.004)
    pace.learn(4, 0.007)
    pace.learn(16, 0.006)  # noise
    assert pace.seconds(1) == pytest.approx(0.004, rel=0.05)
    assert pace.seconds(3) == pytest.approx(0.006, rel=0.1)
    times = [pace.seconds(rows) for rows in range(1, 161)]
    assert times == pytest.approx(sorted(times))


def test_beyond_what_was_seen_it_is_as_if_a_step_cost_some_rows_and_its_own() -> None:
    pace = learned((128, 0.136))
    assert pace.seconds(1) == pytest.approx(0.009)
    assert pace.seconds(256) == pytest.approx(0.264)


def test_slow_steps_of_a_disturbed_machine_move_it_little() -> None:
    pace = learned((1, 0.004))
    for nth in range(100):
        pace.learn(1, 0.02 if nth % 5 == 0 else 0.004)
    assert pace.seconds(1) < 0.006
    for _ in range(300):
        pace.learn(1, 0.012)
    assert pace.seconds(1) == pytest.approx(0.012, rel=0.05), "but what stays is believed"


def test_a_size_that_was_too_slow_when_it_was_tried_is_tried_again_in_time() -> None:
    pace = Pace()
    pace.learn(1, 0.004)
    pace.learn(2, 0.05)
    assert pace.rows_within(1.3 * pace.seconds(1)) == 1
    for _ in range(600):
        pace.learn(1, 0.004)
    assert pace.rows_within(1.3 * pace.seconds(1)) > 1


def test_rows_within_is_the_inverse_of_seconds() -> None:
    pace = learned((1, 0.004), (4, 0.006), (128, 0.12))
    for rows in (1, 2, 5, 77, 160):
        assert pace.rows_within(pace.seconds(rows)) == rows
    assert pace.rows_within(0.0) == 0
    assert pace.rows_within(9.0) == Pace.rows


def test_what_is_left_is_read_in_chunks_and_written_row_by_row() -> None:
    pace = learned((1, 0.004), (128, 0.12))
    left = pace.left_s(2 * CHUNK, 10)
    assert left == pytest.approx(2 * pace.seconds(CHUNK) + 10 * pace.seconds(1))
