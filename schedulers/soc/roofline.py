"""How long a load takes on a processor, and what that costs: a roofline, with memory that others draw from.

A step takes as long as its arithmetic or its reading, whichever is longer, and a fixed time besides
(Williams, Waterman, Patterson, "Roofline", 2009). Memory is shared out max-min fairly: whoever wants less
than an equal part has what it wants, and the others share what is left. So more memory never makes anybody
slower, and company never makes anybody faster; both are tested as properties.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.soc.chip import Chip, Frequency, Processor
from coro_rt.schedulers.soc.language_model import Load


def compute_s(processor: Processor, load: Load, speed: float = 1.0) -> float:
    """The seconds of a load's arithmetic. Raises SchedulerError for a format that the processor has no rate
    for."""
    rate = processor.operations.get(load.format)
    if rate is None:
        raise SchedulerError(
            f"{processor.name} has no rate for weights in {load.format}; it has "
            f"{', '.join(processor.operations)}"
        )
    return load.operations / (rate * speed)


def seconds(processor: Processor, load: Load, speed: float = 1.0, bandwidth: float | None = None) -> float:
    """What a load takes, with so many bytes a second; None: as many as the processor draws alone."""
    reads_s = load.bytes / (processor.bandwidth if bandwidth is None else bandwidth) if load.bytes else 0.0
    return max(compute_s(processor, load, speed), reads_s) + load.steps * processor.step_s


def wanted(processor: Processor, load: Load, speed: float = 1.0) -> float:
    """The bytes a second with which a load is as fast as it gets there."""
    arithmetic_s = compute_s(processor, load, speed)
    if load.bytes >= processor.bandwidth * arithmetic_s:
        return processor.bandwidth
    return load.bytes / arithmetic_s


def shared(bandwidth: float, wants: Mapping[str, float]) -> dict[str, float]:
    """Shares out so many bytes a second among those who want so many, max-min fairly."""
    got: dict[str, float] = {}
    left = bandwidth
    for place, name in enumerate(sorted(wants, key=lambda name: (wants[name], name))):
        got[name] = min(wants[name], left / (len(wants) - place))
        left -= got[name]
    return got


def watts(processor: Processor, load: Load, state: Frequency, takes_s: float) -> float:
    """What a processor takes above idle for a load that takes so long there; without the memory's part."""
    busy = compute_s(processor, load, state.speed) / takes_s
    return state.watts * (processor.stalled + (1.0 - processor.stalled) * busy)


def joules(chip: Chip, processor: Processor, load: Load, state: Frequency) -> float:
    """What a load alone on a chip takes at a state: its processor, its bytes, and the chip's being awake."""
    takes_s = seconds(processor, load, state.speed)
    power = watts(processor, load, state, takes_s) + chip.awake_w
    return power * takes_s + load.bytes * chip.memory.joules_per_byte


def frugal(chip: Chip, processor: Processor, load: Load, stretch: float) -> int:
    """The number of the state in which a load alone takes the fewest joules, of those in which it takes no
    longer than `stretch` times what it takes in the fastest; that one if `stretch` is less than 1."""
    best, best_j = 0, inf
    longest_s = stretch * seconds(processor, load)
    for number, state in enumerate(processor.states):
        if seconds(processor, load, state.speed) > longest_s:
            break
        takes_j = joules(chip, processor, load, state)
        if takes_j < best_j:
            best, best_j = number, takes_j
    return best


def together_s(chip: Chip, names: tuple[str, ...], load: Load) -> float:
    """What one load takes that is split among several processors, so that all are done at the same time."""
    processors = [chip.processor(name) for name in names]
    bandwidth = min(chip.memory.bandwidth, sum(processor.bandwidth for processor in processors))
    rate = sum(load.operations / compute_s(processor, load) for processor in processors)
    besides_s = load.steps * max(processor.step_s for processor in processors)
    return max(load.operations / rate, load.bytes / bandwidth) + besides_s
