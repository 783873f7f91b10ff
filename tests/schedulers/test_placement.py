"""Where placement sends work: to whoever is done first, within what urgency and power allow."""

import json
from dataclasses import replace
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coro_rt.schedulers import Backlog, Placement, PowerState, QoS, Reason, SchedulerError, Traits, Work

CPU, GPU, NPU = Backlog("cpu"), Backlog("gpu"), Backlog("npu")
ALL = (CPU, GPU, NPU)
WORK = Work("k", 100.0)
LOW = PowerState(battery=0.1, charging=False)


def trained(seconds: dict[str, float], traits: dict[str, Traits] | None = None) -> Placement:
    """Knows that WORK takes so long on each device."""
    placement = Placement(traits)
    for device, took in seconds.items():
        for _ in range(4):
            placement.ran(WORK, device, took, 0.0)
    return placement


def test_work_goes_where_it_is_done_first() -> None:
    placement = trained({"cpu": 0.03, "gpu": 0.01, "npu": 0.02})
    choice = placement.choose(WORK, ALL, 1.0)
    assert choice.device == "gpu"
    assert choice.reason is Reason.EARLIEST
    assert choice.finish_s == pytest.approx(0.01, rel=0.01)
    assert "k goes to gpu: it is done there first (cpu: 0.03 s" in str(choice)


def test_who_waits_there_counts() -> None:
    placement = trained({"cpu": 0.03, "gpu": 0.01})
    assert placement.choose(WORK, [CPU, GPU._replace(before_s=0.1)], 1.0).device == "cpu"
    assert placement.choose(WORK, [CPU, GPU._replace(turns_s=(1.0, 1.0, 1.0))], 1.0).device == "cpu"
    assert placement.choose(WORK, [CPU, GPU._replace(turns_s=(1.0,))], 1.0).device == "gpu"


def test_getting_there_counts() -> None:
    placement = trained({"cpu": 0.03, "gpu": 0.01})
    assert placement.choose(replace(WORK, transfer={"gpu": 0.05}), [CPU, GPU], 1.0).device == "cpu"
    assert placement.choose(replace(WORK, transfer={"gpu": 0.01}), [CPU, GPU], 1.0).device == "gpu"


def test_what_is_done_already_does_not_count() -> None:
    placement = trained({"cpu": 0.01})
    placement.ran(Work("k", 200.0), "cpu", 0.02, 0.0)
    whole, rest = placement.predict(WORK, "cpu"), placement.predict(replace(WORK, behind=75.0), "cpu")
    assert whole is not None
    assert rest == pytest.approx(whole / 4, rel=0.1)
    assert placement.predict(replace(WORK, times=3.0), "cpu") == pytest.approx(3 * whole)


def test_devices_that_share_the_memory_slow_each_other_down() -> None:
    placement = trained({"cpu": 0.02, "gpu": 0.015}, {"gpu": Traits(contention=0.5)})
    assert placement.choose(WORK, [CPU, GPU, NPU], 1.0, qos=QoS.USER_INITIATED).device == "gpu"
    choice = placement.choose(WORK, [CPU, GPU, NPU._replace(busy=True)], 1.0, qos=QoS.USER_INITIATED)
    assert choice.device == "cpu"
    for _ in range(60):  # it is not as bad as was said
        placement.ran(WORK, "gpu", 0.0151, 1.0, beside=1)
    choice = placement.choose(WORK, [CPU, GPU, NPU._replace(busy=True)], 1.0, qos=QoS.USER_INITIATED)
    assert choice.device == "gpu"


def test_of_devices_that_are_done_as_soon_the_frugal_one_is_taken() -> None:
    placement = trained({"cpu": 0.0202, "gpu": 0.02}, {"cpu": Traits(watts=2.0), "gpu": Traits(watts=9.0)})
    choice = placement.choose(WORK, [CPU, GPU], 1.0, qos=QoS.USER_INTERACTIVE)
    assert choice.device == "cpu"
    assert choice.reason is Reason.FRUGAL


@pytest.mark.parametrize("state", [PowerState(), LOW, PowerState(thermal=0.5)])
def test_somebody_urgent_pays_a_twentieth_of_the_time_for_energy_at_most(state: PowerState) -> None:
    placement = trained({"cpu": 0.022, "gpu": 0.02}, {"cpu": Traits(watts=1.0), "gpu": Traits(watts=99.0)})
    placement.set_power(state)
    for qos in (QoS.USER_INITIATED, QoS.USER_INTERACTIVE):
        assert placement.choose(WORK, [CPU, GPU], 1.0, qos=qos).device == "gpu"
    near = placement.choose(WORK, [CPU, GPU], 1.0, qos=QoS.BACKGROUND, deadline=1.5)
    assert near.device == "gpu"


def test_background_waits_longer_for_energy_the_less_power_there_is() -> None:
    placement = trained({"cpu": 0.06, "gpu": 0.02}, {"cpu": Traits(watts=1.0), "gpu": Traits(watts=9.0)})

    def device(state: PowerState, qos: QoS = QoS.BACKGROUND, deadline: float = inf) -> str:
        placement.set_power(state)
        return placement.choose(WORK, [CPU, GPU], 1.0, qos=qos, deadline=deadline).device

    assert device(PowerState()) == "gpu"
    assert device(PowerState(battery=0.9, charging=False)) == "cpu"
    assert device(LOW, QoS.UTILITY) == "cpu"
    assert device(LOW, QoS.DEFAULT) == "gpu"
    assert device(replace(LOW, charging=True)) == "gpu"


def test_joules_that_were_measured_count_more_than_what_was_said() -> None:
    placement = trained({"cpu": 0.02, "gpu": 0.02}, {"cpu": Traits(watts=1.0), "gpu": Traits(watts=2.0)})
    assert placement.choose(WORK, [CPU, GPU], 1.0).device == "cpu"
    placement.ran(WORK, "cpu", 0.02, 1.0, joules=0.2)
    choice = placement.choose(WORK, [CPU, GPU], 1.0)
    assert choice.device == "gpu"
    assert choice.options[0].joules == pytest.approx(0.2, rel=0.05)


# What was never measured.


def test_without_measurements_work_begins_with_whoever_is_free_in_the_order_of_preference() -> None:
    placement = Placement()
    assert placement.choose(WORK, ALL, 0.0).device == "cpu"
    choice = placement.choose(WORK, [CPU._replace(before_s=1.0), GPU], 0.0, qos=QoS.USER_INTERACTIVE)
    assert (choice.device, choice.reason) == ("gpu", Reason.UNMEASURED)


def test_a_device_is_tried_by_one_at_a_time_and_so_often_only() -> None:
    placement = trained({"cpu": 0.01})
    devices = [placement.choose(WORK, [CPU, GPU], 1.0).device for _ in range(5)]
    assert devices == ["gpu", "cpu", "cpu", "cpu", "cpu"]
    devices = [placement.choose(WORK, [CPU, GPU], 100.0 * time).device for time in range(1, 12)]
    assert devices.count("gpu") == 3  # whatever happened to those who tried it, nothing came of it


def test_a_device_that_was_tried_is_known_and_chosen_by_what_it_took() -> None:
    placement = trained({"cpu": 0.01})
    for time in range(3):
        assert placement.choose(WORK, [CPU, GPU], time).device == "gpu"
        placement.ran(WORK, "gpu", 0.05, time + 0.5)
    assert placement.choose(WORK, [CPU, GPU], 4.0).device == "cpu"
    assert placement.choose(WORK, [CPU, GPU], 1000.0).reason is Reason.TRIED  # long ago


@pytest.mark.parametrize("qos", [QoS.USER_INITIATED, QoS.USER_INTERACTIVE])
def test_nobody_urgent_tries_a_device(qos: QoS) -> None:
    placement = trained({"cpu": 0.01})
    assert placement.choose(WORK, [CPU, GPU], 1.0, qos=qos).device == "cpu"


@pytest.mark.parametrize(
    "why_not",
    [
        {"devices": [CPU, GPU._replace(busy=True)]},
        {"devices": [CPU, GPU._replace(turns_s=(0.1,))]},
        {"deadline": 1.9},
        {"at": "cpu"},
        {"work": Work("k", 100_000.0)},  # ten seconds on the CPU
    ],
)
def test_a_device_is_not_tried_where_it_could_hurt(why_not: dict[str, object]) -> None:
    placement = trained({"cpu": 0.01})
    asked: dict[str, object] = {"work": WORK, "devices": [CPU, GPU], **why_not}
    work, devices = asked.pop("work"), asked.pop("devices")
    choice = placement.choose(work, devices, 1.0, qos=QoS.BACKGROUND, **asked)  # type: ignore[arg-type]
    assert choice.device == "cpu"


def test_a_device_that_is_known_to_be_slow_is_not_tried_again_by_who_has_no_time_for_it() -> None:
    placement = trained({"cpu": 0.01, "gpu": 5.0})
    for now in (1000.0, 2000.0):  # it is long ago that it was measured
        hurried = placement.choose(WORK, [CPU, GPU], now, qos=QoS.BACKGROUND, deadline=now + 5.5)
        assert hurried.device == "cpu"
    assert placement.choose(WORK, [CPU, GPU], 2000.0, qos=QoS.BACKGROUND).reason is Reason.TRIED


def test_a_device_that_is_known_to_take_longer_than_all_tries_may_is_not_tried_again() -> None:
    placement = trained({"cpu": 0.01, "gpu": 20.0})
    for number in range(1, 100):
        assert placement.choose(WORK, [CPU, GPU], 1000.0 * number, qos=QoS.BACKGROUND).device == "cpu"


@settings(deadline=None)
@given(st.data())
def test_all_tries_together_take_a_hundredth_of_the_time_and_ten_seconds(data: st.DataObject) -> None:
    """And what a single one takes longer than anybody could know before."""
    kernels = [Work(f"k{number}", 100.0) for number in range(data.draw(st.integers(1, 5)))]
    slow = data.draw(st.floats(0.1, 30.0))
    placement, now, spent_s, longest_s = Placement(), 0.0, 0.0, 0.0
    for work in kernels:
        placement.ran(work, "cpu", 0.01, 0.0)
    for _ in range(data.draw(st.integers(1, 200))):
        now += data.draw(st.sampled_from([0.01, 1.0, 70.0, 700.0]))
        work = data.draw(st.sampled_from(kernels))
        choice = placement.choose(work, ALL, now, qos=QoS.BACKGROUND)
        if choice.device == "cpu":
            placement.ran(work, "cpu", 0.01, now)
            continue
        took_s = slow * data.draw(st.floats(0.5, 2.0))
        spent_s += took_s
        longest_s = max(longest_s, took_s)
        assert spent_s <= 10.0 + 0.01 * now + longest_s + 1e-9
        now += took_s
        placement.ran(work, choice.device, took_s, now)


def test_a_long_work_of_short_pieces_may_try_a_device_as_it_can_go_back() -> None:
    placement = trained({"cpu": 0.01})
    assert placement.choose(Work("k", 100.0, times=1000.0), [CPU, GPU], 1.0).device == "gpu"


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["cpu", "gpu", "npu"]), min_size=1, max_size=200),
    st.integers(0, 3),
)
def test_however_many_come_a_device_that_hangs_gets_few_of_them(known: list[str], hung: int) -> None:
    placement = Placement()
    tried = dict.fromkeys(("cpu", "gpu", "npu"), 0)
    names = ("cpu", "gpu", "npu")
    for number, _ in enumerate(known):
        choice = placement.choose(WORK, ALL, float(number))
        tried[choice.device] += 1
        if choice.device not in names[1 : 1 + hung]:
            placement.ran(WORK, choice.device, 0.01, float(number))
    for device in names[1 : 1 + hung]:
        assert tried[device] <= 4


# Fences.


@settings(deadline=None)
@given(st.data())
def test_a_fenced_device_is_never_chosen(data: st.DataObject) -> None:
    seconds = {name: data.draw(st.floats(1e-4, 10.0)) for name in ("cpu", "gpu", "npu")}
    known = data.draw(st.sets(st.sampled_from(sorted(seconds))))
    placement = trained({name: took for name, took in seconds.items() if name in known})
    fenced = data.draw(st.sets(st.sampled_from(sorted(seconds)), max_size=2))
    for name in fenced:
        placement.fence(name, "it hangs")
    for number in range(20):
        qos = data.draw(st.sampled_from(QoS))
        at = data.draw(st.sampled_from((None, "cpu", "gpu", "npu")))
        choice = placement.choose(WORK, ALL, 100.0 * number, qos=qos, at=at)
        assert choice.device not in fenced


def test_when_no_device_is_left_that_is_an_error_which_says_why() -> None:
    placement = trained({"cpu": 0.01, "gpu": 0.01})
    placement.fence("cpu", "it hangs")
    placement.fence("gpu", "it gave NaN")
    with pytest.raises(SchedulerError, match=r"no device is left for k \(cpu is fenced off: it hangs; gpu"):
        placement.choose(WORK, [CPU, GPU], 0.0)
    placement.readmit("gpu")
    assert placement.choose(WORK, [CPU, GPU], 0.0).device == "gpu"
    with pytest.raises(SchedulerError, match="no device is left for k"):
        placement.choose(WORK, [], 0.0)


# Moving.


def test_what_is_under_way_stays_unless_a_move_pays() -> None:
    placement = trained({"cpu": 0.1, "gpu": 0.08})

    def device(work: Work, cpu_waits_s: float = 0.0, moved_at: float = -inf) -> str:
        backlogs = [CPU._replace(before_s=cpu_waits_s), GPU]
        return placement.choose(work, backlogs, 50.0, at="cpu", moved_at=moved_at).device

    assert device(WORK) == "gpu"
    assert device(replace(WORK, transfer={"gpu": 0.015})) == "cpu"  # gains 0.005, and would cost 0.015
    assert device(replace(WORK, transfer={"gpu": 0.015}), 0.05) == "gpu"
    assert device(WORK, moved_at=49.5) == "cpu"  # it has only come
    assert device(replace(WORK, transfer={"gpu": 0.5}), 9.0, moved_at=46.0) == "cpu"  # for ten times that


def test_two_devices_that_are_alike_do_not_pass_a_sequence_to_and_fro() -> None:
    placement = trained({"cpu": 0.1, "gpu": 0.1})
    at, moved_at, moves = "cpu", -inf, 0
    for step in range(1000):
        now = step * 0.1
        busy = {"cpu": step % 2, "gpu": 1 - step % 2}  # each looks worse whenever it is there
        backlogs = [Backlog(name, before_s=0.2 * busy[name]) for name in ("cpu", "gpu")]
        work = Work("k", 100.0, transfer={"cpu": 0.02, "gpu": 0.02})
        choice = placement.choose(work, backlogs, now, at=at, moved_at=moved_at)
        if choice.device != at:
            at, moved_at, moves = choice.device, now, moves + 1
    assert moves <= 100  # a second apart at least


def test_what_is_under_way_on_a_fenced_device_goes_elsewhere() -> None:
    placement = trained({"cpu": 0.1, "gpu": 5.0})
    placement.fence("cpu")
    assert placement.choose(WORK, [CPU, GPU], 0.0, at="cpu").device == "gpu"


# The whole.


@settings(deadline=None)
@given(st.data())
def test_it_decides_the_same_again_also_when_made_from_its_data(data: st.DataObject) -> None:
    first = Placement({"gpu": Traits(watts=3.0, contention=0.2)})
    number = st.floats(1e-6, 10.0)
    device = st.sampled_from(("cpu", "gpu", "npu"))
    for _ in range(data.draw(st.integers(0, 30))):
        work = Work("k", data.draw(number))
        first.ran(work, data.draw(device), data.draw(number), 0.0, beside=data.draw(st.integers(0, 2)))
    second = Placement.from_data(json.loads(json.dumps(first.as_data())))
    third = Placement.from_data(second.as_data())
    for step in range(10):
        backlogs = [Backlog(name, data.draw(number), (data.draw(number),)) for name in ("cpu", "gpu", "npu")]
        asked = {"qos": data.draw(st.sampled_from(QoS)), "deadline": data.draw(st.sampled_from((inf, 3.0)))}
        work = Work("k", data.draw(number))
        choices = [placement.choose(work, backlogs, step * 1.0, **asked) for placement in (second, third)]
        assert choices[0] == choices[1]


@pytest.mark.parametrize("seconds", [nan, inf, -1.0])
def test_seconds_and_joules_that_cannot_be_are_refused(seconds: float) -> None:
    placement = Placement()
    with pytest.raises(SchedulerError, match="these are numbers from 0"):
        placement.ran(WORK, "cpu", seconds, 0.0)
    with pytest.raises(SchedulerError, match="these are numbers from 0"):
        placement.ran(WORK, "cpu", 0.1, 0.0, seconds)
    assert len(placement.profile) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": nan},
        {"size": -1.0},
        {"behind": 2.0},
        {"times": inf},
        {"expected_s": nan},
        {"transfer": {"a": -1.0}},
    ],
)
def test_work_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SchedulerError, match="work for k"):
        Work("k", **{"size": 1.0, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"watts": nan}, {"contention": -1.0}])
def test_traits_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SchedulerError, match="traits of a device"):
        Traits(**wrong)


@pytest.mark.parametrize(
    "data", [None, {}, {"traits": {}, "profile": None}, {"traits": {"a": 1}, "profile": []}]
)
def test_what_is_no_placement_is_refused(data: object) -> None:
    with pytest.raises(SchedulerError):
        Placement.from_data(data)
