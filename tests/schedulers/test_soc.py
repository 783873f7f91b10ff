"""Chips as models: rooflines, shared memory, joules, heat, and what others have published."""

from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coro_rt.schedulers import SchedulerError
from coro_rt.schedulers.soc import (
    CHIPS,
    MODELS,
    Chip,
    Frequency,
    Heat,
    Load,
    Memory,
    Processor,
    Silicon,
    frequencies,
    get_chip,
    get_model,
)
from coro_rt.schedulers.soc.published import PUBLISHED, SAVED, WITHIN
from coro_rt.schedulers.soc.roofline import frugal, joules, seconds, shared, wanted

DOCS = Path(__file__).parents[2] / "docs" / "soc.md"
GEN_3 = get_chip("snapdragon-8-gen-3")
MODEL = get_model("llama-3.2-3b")

amounts = st.floats(1e6, 1e13, allow_nan=False)
loads = st.builds(Load, amounts, amounts, st.just("int4"), st.integers(0, 3))
processors = st.sampled_from([processor for chip in CHIPS.values() for processor in chip.processors])
speeds = st.sampled_from([1.0, 0.75, 0.5, 0.25])


def hottest(chip: Chip, load: Load, for_s: float) -> Silicon:
    """All its processors work on such a load, and the governor looks whenever it should."""
    silicon = Silicon(chip)
    for name in chip.names:
        silicon.begin(name, load)
    while silicon.now < for_s:
        silicon.advance(min(silicon.check_due, for_s))
        silicon.check()
    return silicon


# What a load takes.


@given(processors, loads, speeds, amounts, amounts)
def test_more_memory_is_never_slower(processor, load, speed, one, other):
    few, many = sorted((one, other))
    assert seconds(processor, load, speed, many) <= seconds(processor, load, speed, few)


@given(processors, loads, speeds)
def test_a_lower_frequency_is_never_faster(processor, load, speed):
    assert seconds(processor, load, speed) >= seconds(processor, load)


@given(processors, loads, speeds)
def test_with_what_it_wants_a_load_is_as_fast_as_alone(processor, load, speed):
    enough = wanted(processor, load, speed)
    assert enough <= processor.bandwidth
    assert seconds(processor, load, speed, enough) == pytest.approx(seconds(processor, load, speed))


@given(amounts, st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1e12), min_size=1))
def test_memory_is_shared_max_min_fairly(bandwidth, wants):
    got = shared(bandwidth, wants)
    assert sum(got.values()) <= bandwidth * (1 + 1e-12)
    least = min((got[name] for name in wants if got[name] < wants[name]), default=inf)
    for name in wants:
        assert 0 <= got[name] <= wants[name]
        assert got[name] <= least * (1 + 1e-12) or got[name] == wants[name]
    if least < inf:  # somebody has less than it wants: nothing is left over, and nobody has more
        assert sum(got.values()) == pytest.approx(bandwidth)
        assert all(had <= least * (1 + 1e-9) for had in got.values())


@given(st.lists(loads, min_size=1, max_size=4))
def test_company_never_makes_anybody_faster(given_loads):
    silicon = Silicon(GEN_3)
    for name, load in zip(GEN_3.names, given_loads, strict=False):
        before = {other: silicon.speed(other) for other in GEN_3.names}
        silicon.begin(name, load)
        for other in GEN_3.names:
            assert silicon.speed(other) <= before[other] * (1 + 1e-12)


def test_one_row_is_bound_by_memory_and_many_by_arithmetic():
    npu = GEN_3.processor("npu")
    one, many = MODEL.step([(1, 0)]), MODEL.step([(128, 0)])
    assert seconds(npu, one) == one.bytes / npu.bandwidth + npu.step_s
    assert seconds(npu, many) == many.operations / npu.operations["int4"] + npu.step_s
    assert seconds(npu, many) < 16 * seconds(npu, one)


def test_rows_of_several_sequences_read_the_weights_once():
    one, four = MODEL.step([(1, 100)]), MODEL.step([(1, 100)] * 4)
    assert four.operations == pytest.approx(4 * one.operations)
    assert four.bytes == pytest.approx(one.bytes + 3 * 101 * MODEL.kv_bytes)


def test_weights_in_eight_bits_are_read_nearly_twice_as_long_and_computed_as_long():
    npu = GEN_3.processor("npu")
    for rows, least, most in ((1, 1.7, 1.9), (128, 1.0, 1.0)):
        four, eight = (seconds(npu, MODEL.quantized(name).step([(rows, 0)])) for name in ("int4", "int8"))
        assert least <= eight / four <= most


def test_a_format_that_a_processor_has_no_rate_for_is_an_error_that_names_those_it_has():
    with pytest.raises(SchedulerError, match="gpu has no rate for weights in fp16; it has int4, int8"):
        seconds(GEN_3.processor("gpu"), MODEL.quantized("fp16").step([(1, 0)]))


# Joules.


@given(processors, loads, st.sampled_from([0.0, 1.0, 1.05, 2.0, inf]))
def test_the_frugal_state_takes_the_fewest_joules_of_those_that_are_fast_enough(processor, load, stretch):
    longest_s = max(1.0, stretch) * seconds(processor, load)
    enough = [state for state in processor.states if seconds(processor, load, state.speed) <= longest_s]
    chosen = processor.states[frugal(GEN_3, processor, load, stretch)]
    assert chosen in enough
    if stretch >= 1:
        assert joules(GEN_3, processor, load, chosen) == min(
            joules(GEN_3, processor, load, state) for state in enough
        )


@given(st.lists(st.tuples(st.sampled_from(GEN_3.names), st.one_of(st.none(), loads),
                          st.sampled_from([0.0, 1.0, inf]), st.floats(0, 100)), max_size=12))  # fmt: skip
def test_energy_adds_up(events):
    """The chip's joules are its idling, its being awake, and what the work on each processor took."""
    silicon = Silicon(GEN_3)
    for name, load, stretch, for_s in events:
        silicon.begin(name, load, stretch=stretch)
        silicon.advance(silicon.now + for_s)
    parts = silicon.idle_w * silicon.now + GEN_3.awake_w * silicon.awake_s
    parts += sum(silicon.drawn_j(name) for name in GEN_3.names)
    assert silicon.joules == pytest.approx(parts)
    assert all(silicon.busy_s(name) <= silicon.awake_s * (1 + 1e-12) for name in GEN_3.names)


def test_a_chip_that_does_nothing_takes_its_idle_power_and_stays_cool():
    silicon = Silicon(GEN_3)
    silicon.advance(3600.0)
    assert silicon.joules == pytest.approx(3600 * silicon.idle_w)
    assert silicon.check_due == inf
    assert silicon.celsius == pytest.approx(25 + 5 * silicon.idle_w, abs=0.01)


# Heat.


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
@pytest.mark.parametrize("rows", [1, 128])
def test_the_limit_of_the_case_is_kept_whatever_runs(chip, rows):
    silicon = hottest(chip, MODEL.step([(rows, 256)]), 2 * 3600.0)
    assert silicon.hottest_c <= chip.heat.limit_c
    if silicon.throttled_s:
        assert silicon.thermal < 1 or silicon.celsius < chip.heat.limit_c


def test_a_hot_chip_is_slower_and_a_cool_one_fast_again():
    load = MODEL.step([(128, 0)])
    silicon = hottest(GEN_3, load, 3600.0)
    assert silicon.throttled_s > 0
    assert silicon.thermal < 1
    for name in GEN_3.names:
        silicon.begin(name, None)
    while silicon.check_due < inf:
        silicon.advance(silicon.check_due)
        silicon.check()
    assert silicon.thermal == 1
    silicon.begin("npu", load)
    assert silicon.speed("npu") == 1


# What cannot be.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"operations": {}}, "has a name, a rate for some format"),
        ({"bandwidth": 0.0}, "operations and bandwidth are numbers from 1 on"),
        ({"step_s": -1.0}, "seconds and watts are numbers from 0 on"),
        ({"stalled": 1.5}, "stalled = 1.5; it is a part"),
        ({"states": (Frequency(0.5, 1.0),)}, "the first is 1"),
        ({"states": (Frequency(1.0, 1.0), Frequency(0.5, 2.0))}, "a slower one takes no more"),
    ],
)
def test_a_processor_that_cannot_be_is_an_error_that_says_why(change, said):
    usual = {
        "name": "p", "title": "", "operations": {"int4": 1e12}, "bandwidth": 1e9,
        "states": frequencies(1.0, 1.5),
    }  # fmt: skip
    with pytest.raises(SchedulerError, match=said):
        Processor(**usual | change)


def test_a_chip_that_cannot_be_is_an_error_that_says_why():
    processor = GEN_3.processor("npu")
    memory, heat = GEN_3.memory, GEN_3.heat
    with pytest.raises(SchedulerError, match="different names"):
        Chip("c", "", (processor, processor), memory, heat)
    with pytest.raises(SchedulerError, match="above the ambient"):
        Heat(limit_c=20.0, kelvin_per_watt=1.0, settles_s=1.0)
    with pytest.raises(SchedulerError, match="bandwidth are numbers"):
        Memory(0.0, 0.0)
    with pytest.raises(SchedulerError, match="no processor 'tpu'; it has big, little, gpu, npu"):
        GEN_3.processor("tpu")


def test_an_unknown_name_is_an_error_that_lists_those_known():
    with pytest.raises(SchedulerError, match="no chip 'pentium'; known are snapdragon-8-gen-3, "):
        get_chip("pentium")
    with pytest.raises(SchedulerError, match="no model 'eliza'; known are smollm2-135m, "):
        get_model("eliza")
    with pytest.raises(SchedulerError, match="no weights in 'int3'; there are int4, int8, fp16"):
        MODEL.quantized("int3")


# What others have published.


@pytest.mark.parametrize("point", PUBLISHED, ids=lambda point: f"{point.chip} {point.model} {point.source}")
def test_a_published_point_comes_out_within_a_fifth_or_it_is_said_why_not(point):
    assert (abs(point.error) <= WITHIN) == (not point.why), f"{point.modelled:.1f}, {point.error:+.0%}"


def test_at_least_four_points_hold_on_each_chip():
    for chip in CHIPS:
        assert sum(point.chip == chip and not point.why for point in PUBLISHED) >= 4


def test_gpu_and_npu_together_save_as_much_energy_as_published():
    assert SAVED.modelled == pytest.approx(SAVED.value, rel=WITHIN)


def published_table() -> str:
    """The table in docs/soc.md."""
    lines = [
        "| chip | on | model | what | published | modelled | error | source |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for point in PUBLISHED:
        what = f"write 1, {point.behind} behind" if point.rows == 1 else f"read {point.rows}"
        if point.rows > 1 and point.behind:
            what += f", {point.behind} behind"
        error = f"{point.error:+.0%}" if not point.why else f"**{point.error:+.0%}**: {point.why}"
        lines.append(
            f"| {point.chip} | {' + '.join(point.on)} | {point.model} | {what} | {point.value:,.1f} | "
            f"{point.modelled:,.1f} | {error} | {point.source} |"
        )
    return "\n".join(lines)


def test_the_table_in_the_documentation_is_what_the_model_says():
    assert published_table() in DOCS.read_text(), "docs/soc.md wants:\n" + published_table()


def test_models_have_the_bytes_of_their_files():
    """GGUF's Q4_0 of Llama-3.1-8B has 4.66 GB with its table, and Q8_0 8.54 GB."""
    model = MODELS["llama-3.1-8b"]
    for format, published in (("int4", 4.66e9), ("int8", 8.54e9)):
        shape = model.quantized(format)
        whole = shape.weight_bytes * shape.parameters / (shape.parameters - shape.embedding)
        assert whole == pytest.approx(published, rel=0.04)
