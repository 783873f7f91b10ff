import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coro_rt.errors import ModelError, SamplingError
from coro_rt.llm.sampling import Sampler, SamplingParams

LOGITS = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.sampled_from([-2.0, 0.0, 1.0, 3.0]) | st.floats(-20, 20, width=32) | st.just(-math.inf),
)
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.integers(0, 45),
    top_p=st.just(1.0) | st.floats(0.05, 1.0),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    seed=st.integers(0, 2**64 - 1),
)


def reference(params: SamplingParams, logits: np.ndarray, history: list[int]) -> dict[int, float]:
    """The meaning, in plain Python: each token that may come, most probable first, with its probability."""
    values = [float(x) for x in logits]
    for token in set(history):
        penalty = params.repetition_penalty
        values[token] = values[token] / penalty if values[token] > 0 else values[token] * penalty
    ids = sorted(range(len(values)), key=lambda token: (-values[token], token))
    if params.top_k:
        ids = ids[: params.top_k]
    best = max(values)
    weights = [math.exp((values[token] - best) / params.temperature) for token in ids]
    goal, reached, kept = params.top_p * sum(weights), 0.0, {}
    for token, weight in zip(ids, weights, strict=True):
        if params.top_p < 1:
            assume(abs(reached - goal) > 1e-4 * goal)  # else rounding decides
        if params.top_p < 1 and reached >= goal:
            break
        kept[token] = weight
        reached += weight
    return {token: weight / reached for token, weight in kept.items()}


@given(params=PARAMS, logits=LOGITS, data=st.data())
def test_the_drawn_token_is_where_the_random_number_falls(params, logits, data):
    assume(np.isfinite(logits.max()))
    history = data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=10))
    expected = reference(params, logits, history)
    before = logits.copy()
    token = Sampler(params).sample(logits, history, 3)
    assert np.array_equal(logits, before), "the logits are left as they are"
    assert expected.get(token, 0) > 0

    uniform = np.random.Generator(np.random.Philox(key=params.seed, counter=3)).random()
    by_id = params.top_p == 1 and not 0 < params.top_k < len(logits)
    end = 0.0
    for candidate in sorted(expected) if by_id else expected:
        end += expected[candidate]
        if candidate == token:
            assert end - expected[candidate] - 1e-5 <= uniform <= end + 1e-5


@given(logits=LOGITS, seed=st.integers(0, 9))
def test_temperature_zero_takes_the_largest_and_of_equals_the_smallest_id(logits, seed):
    assume(np.isfinite(logits.max()))
    token = Sampler(SamplingParams(seed=seed, top_k=3, top_p=0.1)).sample(logits, [], 0)
    assert token == min(i for i, value in enumerate(logits) if value == logits.max())


def test_the_penalty_divides_positive_logits_and_multiplies_negative_ones():
    sampler = Sampler(SamplingParams(repetition_penalty=2.0))
    assert sampler.sample(np.array([3, 2], np.float32), [0, 0], 0) == 1
    assert sampler.sample(np.array([5, 2], np.float32), [0, 0], 0) == 0, "once, however often it came"
    assert sampler.sample(np.array([-1, -1.5], np.float32), [0], 0) == 1
    assert Sampler(SamplingParams(repetition_penalty=0.5)).sample(np.array([2, 3], np.float32), [0], 0) == 0


def test_frequencies_follow_the_probabilities():
    """Chi-squared over 20,000 positions of one seed; 25 is far beyond the 99.9th percentile for 5 degrees."""
    logits = np.log(np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04], np.float32))
    for params in SamplingParams(temperature=1, seed=7), SamplingParams(temperature=1, top_k=5, seed=8):
        expected = reference(params, logits, [])
        sampler = Sampler(params)
        count = Counter(sampler.sample(logits, [], position) for position in range(20_000))
        assert count.keys() == expected.keys()
        chi = sum((count[t] - 20_000 * p) ** 2 / (20_000 * p) for t, p in expected.items())
        assert chi < 25


def test_a_draw_depends_on_seed_and_position_alone():
    logits = np.zeros(1000, np.float32)
    first = Sampler(SamplingParams(temperature=1, seed=1))
    forward = [first.sample(logits, [], position) for position in range(50)]
    backward = [first.sample(logits, [], position) for position in reversed(range(50))]
    assert forward == backward[::-1]
    assert len(set(forward)) > 40
    other = Sampler(SamplingParams(temperature=1, seed=2))
    assert forward != [other.sample(logits, [], position) for position in range(50)]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-30, 1e-6])
def test_a_tiny_temperature_is_greedy(temperature):
    logits = np.array([-math.inf, 1, 3, 2, -3e38], np.float32)
    assert Sampler(SamplingParams(temperature=temperature)).sample(logits, [], 0) == 2


def test_a_huge_temperature_draws_evenly_but_never_what_is_excluded():
    logits = np.array([-math.inf, 1, 3, 2], np.float32)
    sampler = Sampler(SamplingParams(temperature=1e300))
    assert {sampler.sample(logits, [], position) for position in range(100)} == {1, 2, 3}


@pytest.mark.parametrize("top_p", [1e-300, 0.5, 0.999999])
def test_a_flat_distribution_over_a_large_vocabulary_keeps_as_many_as_needed(top_p):
    logits = np.zeros(49_152, np.float32)
    sampler = Sampler(SamplingParams(temperature=1, top_p=top_p))
    largest = max(sampler.sample(logits, [], position) for position in range(30))
    assert largest < max(1, math.ceil(top_p * len(logits)) + 1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_an_error(wrong, temperature):
    sampler = Sampler(SamplingParams(temperature=temperature))
    with pytest.raises(ModelError, match="position 5 are not numbers"):
        sampler.sample(np.array([1, wrong, 2], np.float32), [], 5)
    with pytest.raises(ModelError, match="not numbers"):
        sampler.sample(np.full(3, -math.inf, np.float32), [], 5)


WRONG = {
    "temperature": [-0.1, math.nan, math.inf, "1", None, True, 10**400],
    "top_k": [-1, 1.0, math.nan, "1", None, True],
    "top_p": [0, 0.0, -0.5, 1.0000001, math.nan, math.inf, "1", None, True],
    "repetition_penalty": [0, -1.0, 1e-9, 1000, math.nan, math.inf, "1", None, False],
    "seed": [-1, 2**64, 1.5, math.nan, "1", None, True],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_wrong_parameters_are_named_with_value_and_range(name, value):
    with pytest.raises(SamplingError) as error:
        SamplingParams(**{name: value})
    assert str(error.value).startswith(f"{name} is {value!r}, but it must be a")


def test_numbers_of_numpy_are_numbers():
    params = SamplingParams(
        temperature=np.float32(0.5), top_k=np.int64(2), top_p=np.float64(0.9), seed=np.uint64(2**64 - 1)
    )
    assert Sampler(params).sample(np.array([1, 2, 3], np.float32), np.array([0]), np.int64(4)) in {1, 2}
