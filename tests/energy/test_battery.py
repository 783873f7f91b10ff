"""The battery, on made-up trees."""

from pathlib import Path

import pytest
from sysfs_maker import BATTERY, make

from coro_rt.energy import Battery, BatteryReading
from coro_rt.errors import EnergyError


def test_how_full_it_is_whether_it_drains_and_what_the_machine_draws(tmp_path: Path) -> None:
    make(tmp_path, BAT0=BATTERY, AC={"type": "Mains", "online": 0})
    reading = Battery(tmp_path).read()
    assert reading == BatteryReading(0.64, False, 8.3)
    assert str(reading) == "64%, discharging, 8.3 W"


def test_plugged_in_and_out_again(tmp_path: Path) -> None:
    make(tmp_path, BAT0=BATTERY)
    battery = Battery(tmp_path)
    for status, charging in [
        ("Charging", True),
        ("Discharging", False),
        ("Full", True),
        ("Not charging", True),
    ]:
        make(tmp_path, BAT0={"status": status})
        assert battery.read().charging is charging


@pytest.mark.parametrize(
    ("supplies", "charging"),
    [({}, True), ({"AC": 0}, False), ({"AC": 0, "USB": 1}, True)],
    ids=["nothing else to ask", "unplugged", "by USB"],
)
def test_where_the_battery_does_not_know_its_supplies_are_asked(
    tmp_path: Path, supplies: dict[str, int], charging: bool
) -> None:
    make(tmp_path, BAT0=BATTERY | {"status": "Unknown"})
    make(tmp_path, **{name: {"type": "Mains", "online": online} for name, online in supplies.items()})
    assert Battery(tmp_path).read().charging is charging


def test_a_weak_charger_is_not_external_power(tmp_path: Path) -> None:
    make(tmp_path, BAT0=BATTERY, AC={"type": "Mains", "online": 1})
    assert not Battery(tmp_path).read().charging


@pytest.mark.parametrize("sign", [1, -1])
def test_without_power_now_it_is_volts_times_amperes(tmp_path: Path, sign: int) -> None:
    files = {"type": "Battery", "capacity": 50, "status": "Discharging"}
    make(tmp_path, battery=files | {"voltage_now": 4_000_000, "current_now": sign * 1_500_000})
    assert Battery(tmp_path).read().watts == pytest.approx(6.0)


def test_what_a_battery_does_not_say_nobody_knows(tmp_path: Path) -> None:
    make(tmp_path, BAT0={"type": "Battery", "voltage_now": 4_000_000, "capacity": "?"})
    reading = Battery(tmp_path).read()
    assert reading == BatteryReading(None, True, None)
    assert str(reading) == "at an unknown level, on external power"


def test_two_batteries_are_one(tmp_path: Path) -> None:
    make(tmp_path, BAT0=BATTERY, BAT1=BATTERY | {"capacity": 36, "status": "Not charging", "power_now": 0})
    assert Battery(tmp_path).read() == BatteryReading(0.5, False, 8.3)


@pytest.mark.parametrize("percent", [-3, 0, 100, 104])
def test_no_battery_is_fuller_than_full(tmp_path: Path, percent: int) -> None:
    make(tmp_path, BAT0=BATTERY | {"capacity": percent})
    assert Battery(tmp_path).read().level == min(1.0, max(0.0, percent / 100))


def test_the_mouse_has_one_too_but_that_is_not_the_machines(tmp_path: Path) -> None:
    make(tmp_path, mouse=BATTERY | {"scope": "Device"}, AC={"type": "Mains", "online": 1})
    with pytest.raises(EnergyError, match="has no battery"):
        Battery(tmp_path)
