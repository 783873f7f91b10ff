"""What is used and who is charged for it, and what the machine runs on: counters of joules, battery, heat.

A `Meter` holds what is read; docs/design.md, section "Energy", says what is measured, what modelled.
"""

from coro_rt.energy.battery import Battery, BatteryReading
from coro_rt.energy.meter import Meter
from coro_rt.energy.nvml import Nvml
from coro_rt.energy.rapl import Rapl
from coro_rt.energy.source import EnergySource
from coro_rt.energy.thermal import ThermalZones

__all__ = ["Battery", "BatteryReading", "EnergySource", "Meter", "Nvml", "Rapl", "ThermalZones"]
