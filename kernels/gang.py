"""The gang: the worker's thread and its helpers share the units of a program's operations.

The leader publishes one operation at a time. Everybody claims chunks of its units by compare-and-swap on one
word, the *ticket*: (epoch << 32) | next unit. The leader goes on to the next operation when every claimed
chunk is finished; it never waits for a helper that has claimed nothing, so one that the OS has put aside
costs nothing.

Between two operations the ticket is *closed* (unit = CLOSED) and its epoch is new, so that a helper which has
read an old ticket cannot claim anything: its compare-and-swap fails. Only then may the leader rewrite what
the helpers read.

After each of its own chunks (0.1 ms at most) the leader reads the preempt flag and the clock. If the step
must give way it closes the ticket, waits for the chunks under way, and stores the resume point: all units
before it are done, none after.

A helper that loses its core in the middle of a chunk does cost: the leader has to wait until the OS runs it
again, some milliseconds. So after a long wait the leader works alone for ten times as long: the gang shrinks
when somebody else wants the cores, loses a tenth to waiting at most, and grows back.

A helper that finds itself on the leader's core, where the OS puts it when all are busy, can only take time
from the leader: it moves to another one, and if it may use no other, it goes back to sleep.

Helpers spin for a while when there is nothing to claim (the gap between two operations is short), then sleep
on a condition variable; the leader wakes them when it has work that is worth it.
"""

import threading
from enum import IntEnum

import numpy as np
from numba.core import types
from numpy.typing import NDArray

from .atomics import (
    CONDITION_BYTES,
    CORES_BYTES,
    MUTEX_BYTES,
    atomic_add,
    atomic_load,
    atomic_store,
    compare_and_swap,
    current_cpu,
    get_cores,
    init_mutex_and_condition,
    lock,
    now_ns,
    pause,
    unlock,
    use_cores,
    wait,
    wake_all,
    yield_cpu,
)
from .jit import entry
from .memory import CACHE_LINE, aligned_zeros
from .program import Program
from .simd import inline, load_i64, store_i64
from .units import (
    OP_BYTES,
    STATE_BURST,
    STATE_DONE_NS,
    STATE_OP,
    STATE_UNIT,
    call_units,
    follow,
    unit_cost_ns,
    units_address,
    units_of,
)
from .workspace import Workspace


class Outcome(IntEnum):
    """How a call of `Gang.run` ended."""

    DONE = 0
    PREEMPTED = 1
    SLICE_OVER = 2


# The control block, one cache line for each word that different threads write
_TICKET, _FINISHED, _SLOT, _SLEEPERS, _GENERATION, _QUIT, _ALONE, _LEADER, _MUTEX, _CONDITION = (
    i * CACHE_LINE for i in range(10)
)
_SLOT_OP, _SLOT_WS, _SLOT_STATE, _SLOT_UNITS, _SLOT_CHUNK, _SLOT_THREADS, _SLOT_CPU = (
    _SLOT + i * 8 for i in range(7)
)
_ALONE_UNTIL_NS = _ALONE  # until then the leader shares nothing
_LEADER_THREAD = _LEADER  # the OS's number of the leader's thread
_CORES = _CONDITION + CONDITION_BYTES  # each thread's room for a set of cores
assert MUTEX_BYTES <= CACHE_LINE

_CLOSED = 0x7FFFFFFF
_UNIT_MASK = 0xFFFFFFFF
_CHUNK_NS = 100_000  # at most
_HELP_NS = 2_000  # an operation shorter than this is not worth sharing
_SPINS = 8_000  # some 0.2 ms of pauses, then a helper sleeps
_PATIENCE = 2_000  # pauses that the leader waits for a chunk before it offers its core to whoever has it
_STALL_NS = 200_000  # a chunk that takes so much longer than the leader's has lost its core
_ALONE_FACTOR = 10  # how many times the stall: waiting costs at most a tenth
_CROWDED_NS = 10_000_000  # how long the leader works alone when a helper has been put on its core


@entry
def _run(control, code, preempt, ops, count, ws, state, end_ns, threads):  # type: ignore[no-untyped-def]
    """The leader: run operations from the resume point on. Gives the outcome."""
    at, unit = load_i64(state + STATE_OP), load_i64(state + STATE_UNIT)
    while at < count:
        op = ops + at * OP_BYTES
        units = units_of(op, ws, state)
        outcome = np.int64(0)
        if unit < units:
            cost = unit_cost_ns(op, ws, state) + 1
            chunk = max(_CHUNK_NS // cost, 1)
            worth_it = threads > 1 and units - unit > 1 and (units - unit) * cost > _HELP_NS
            if worth_it and now_ns() >= atomic_load(control + _ALONE_UNTIL_NS):
                unit, outcome = _share(
                    control, code, preempt, op, ws, state, unit, units, chunk, threads, end_ns
                )
            else:
                while unit < units and outcome == 0:
                    last = min(unit + chunk, units)
                    call_units(code, op, ws, state, unit, last, 0)
                    unit = last
                    outcome = _must_stop(preempt, end_ns)
        if unit >= units:
            at += 1
            unit = 0
        if outcome != 0 and at < count:
            store_i64(state + STATE_OP, at)
            store_i64(state + STATE_UNIT, unit)
            return outcome
        if at == count and load_i64(state + STATE_BURST) > 0 and follow(ws, state) and outcome == 0:
            at = 0
    store_i64(state + STATE_OP, at)
    store_i64(state + STATE_DONE_NS, now_ns())
    return 0


@entry
def _must_stop(preempt, end_ns):  # type: ignore[no-untyped-def]
    if atomic_load(preempt) != 0:
        return 1
    if now_ns() >= end_ns:
        return 2
    return 0


@inline
def _end(claimed, units, longest, threads):  # type: ignore[no-untyped-def]
    """Where a chunk ends that begins at unit `claimed`.

    Nobody has asked the memory for a chunk's first rows, so chunks are long; but a thread's share of what is
    left at most, so that all finish at about the same time, and not as short as to be nothing but beginnings.
    """
    return min(claimed + max(min(longest, (units - claimed) // threads), longest // 20, 1), units)


@entry
def _share(  # type: ignore[no-untyped-def]
    control, code, preempt, op, ws, state, unit, units, chunk, threads, end_ns
):
    """Publish units unit … units-1 of an operation and work on them. Gives (next unit to do, outcome)."""
    store_i64(control + _SLOT_OP, op)
    store_i64(control + _SLOT_WS, ws)
    store_i64(control + _SLOT_STATE, state)
    store_i64(control + _SLOT_UNITS, units)
    store_i64(control + _SLOT_CHUNK, chunk)
    store_i64(control + _SLOT_THREADS, threads)
    store_i64(control + _SLOT_CPU, current_cpu())
    atomic_store(control + _FINISHED, unit)
    epoch = (atomic_load(control + _TICKET) >> 32) + 1
    atomic_store(control + _TICKET, (epoch << 32) | unit)
    if atomic_load(control + _SLEEPERS) != 0:
        lock(control + _MUTEX)
        atomic_add(control + _GENERATION, 1)
        wake_all(control + _CONDITION)
        unlock(control + _MUTEX)
    outcome = np.int64(0)
    while True:
        ticket = atomic_load(control + _TICKET)
        claimed = ticket & _UNIT_MASK
        if claimed >= units or outcome != 0:
            # close; a helper may have claimed one more chunk meanwhile
            if compare_and_swap(control + _TICKET, ticket, ((epoch + 1) << 32) | _CLOSED):
                break
        else:
            last = _end(claimed, units, chunk, threads)
            if compare_and_swap(control + _TICKET, ticket, (epoch << 32) | last):
                call_units(code, op, ws, state, claimed, last, 0)
                atomic_add(control + _FINISHED, last - claimed)
                outcome = _must_stop(preempt, end_ns)
    if atomic_load(control + _FINISHED) < claimed:
        _await_chunks(control, claimed)
    return claimed, outcome


@entry
def _await_chunks(control, claimed):  # type: ignore[no-untyped-def]
    """Wait until every claimed unit is done; after a stall, share nothing for a while."""
    began, spins = now_ns(), 0
    while atomic_load(control + _FINISHED) < claimed:
        pause()
        spins += 1
        if spins > _PATIENCE:
            yield_cpu()
    now = now_ns()
    if now - began > _STALL_NS:
        atomic_store(control + _ALONE_UNTIL_NS, now + _ALONE_FACTOR * (now - began))


@entry
def _help(control, code, thread):  # type: ignore[no-untyped-def]
    """A helper: claim chunks of whatever is published, until told to quit."""
    spins = 0
    while True:
        generation = atomic_load(control + _GENERATION)
        ticket = atomic_load(control + _TICKET)
        claimed = ticket & _UNIT_MASK
        cpu = current_cpu()
        crowded = cpu >= 0 and cpu == load_i64(control + _SLOT_CPU)
        if crowded and _move(control, cpu, thread):
            continue
        if crowded:
            atomic_store(control + _ALONE_UNTIL_NS, now_ns() + _CROWDED_NS)
        elif claimed != _CLOSED:
            op, ws, state = (
                load_i64(control + _SLOT_OP),
                load_i64(control + _SLOT_WS),
                load_i64(control + _SLOT_STATE),
            )
            units, chunk = load_i64(control + _SLOT_UNITS), load_i64(control + _SLOT_CHUNK)
            last = _end(claimed, units, chunk, load_i64(control + _SLOT_THREADS))
            # succeeds only if the ticket is as it was, and then the slot read above is this ticket's
            if claimed < units and compare_and_swap(control + _TICKET, ticket, ticket + (last - claimed)):
                call_units(code, op, ws, state, claimed, last, thread)
                atomic_add(control + _FINISHED, last - claimed)
                spins = 0
                continue
        spins += 1
        if spins < _SPINS and not crowded:
            pause()
            continue
        lock(control + _MUTEX)
        atomic_add(control + _SLEEPERS, 1)
        while atomic_load(control + _GENERATION) == generation and atomic_load(control + _QUIT) == 0:
            wait(control + _CONDITION, control + _MUTEX)
        atomic_add(control + _SLEEPERS, -1)
        unlock(control + _MUTEX)
        spins = 0
        if atomic_load(control + _QUIT) != 0:
            return


@entry
def _move(control, cpu, thread):  # type: ignore[no-untyped-def]
    """Leave a core for another one that the leader may use. False if there is none."""
    cores = control + _CORES + thread * CORES_BYTES
    if not get_cores(load_i64(control + _LEADER_THREAD), cores):
        return False
    word = cores + cpu // 64 * 8
    store_i64(word, load_i64(word) & ~(np.int64(1) << (cpu % 64)))
    for other in range(0, CORES_BYTES, 8):
        if load_i64(cores + other) != 0:
            return use_cores(cores)
    return False


@entry
def _prepare(control):  # type: ignore[no-untyped-def]
    init_mutex_and_condition(control + _MUTEX, control + _CONDITION)
    atomic_store(control + _TICKET, _CLOSED)


@entry
def _quit(control):  # type: ignore[no-untyped-def]
    lock(control + _MUTEX)
    atomic_store(control + _QUIT, 1)
    wake_all(control + _CONDITION)
    unlock(control + _MUTEX)


def compile_kernels() -> None:
    """Compile everything a gang runs, or load it from the cache. Some 10 s the first time, then a blink."""
    words = types.int64
    _prepare.compile((words,))
    _quit.compile((words,))
    _run.compile((words,) * 9)
    _help.compile((words,) * 3)
    units_address()


class Gang:
    """`threads` threads for programs: the caller of `run` and helpers that `start` makes and `close` joins.

    `preempt` is int64 [8]; whoever wants the running step to give way stores 1 into preempt[0], from any
    thread. One `run` at a time.
    """

    def __init__(self, threads: int, *, preempt: NDArray[np.int64] | None = None) -> None:
        if threads < 1:
            raise ValueError(f"a gang has at least 1 thread, not {threads}")
        self.threads = threads
        self.preempt = np.zeros(8, np.int64) if preempt is None else preempt
        self._preempt_address = int(self.preempt.ctypes.data)
        self._block = aligned_zeros(_CORES + threads * CORES_BYTES)
        self._control = int(self._block.ctypes.data)
        self._words = self._block.view(np.int64)
        self._helpers: list[threading.Thread] = []

    def start(self) -> None:
        """Compile (or load) the kernels and start the helpers."""
        compile_kernels()
        _prepare(self._control)
        for index in range(1, self.threads):
            helper = threading.Thread(
                target=_help,
                args=(self._control, units_address(), index),
                name=f"coro_rt-cpu-helper-{index}",
                daemon=True,
            )
            helper.start()
            self._helpers.append(helper)

    def close(self) -> None:
        """End and join the helpers. No `run` may be under way."""
        if self._helpers:
            _quit(self._control)
            for helper in self._helpers:
                helper.join()
            self._helpers.clear()

    def run(self, program: Program, workspace: Workspace, *, end_ns: int = 2**63 - 1) -> Outcome:
        """Go on with the step that `workspace.begin` set up, until done, preempted, or `time.monotonic_ns()
        >= end_ns`.
        """
        table = program.table
        self._words[_LEADER_THREAD // 8] = threading.get_native_id()
        return Outcome(
            _run(
                self._control, units_address(), self._preempt_address, table.ctypes.data, len(table),
                workspace.table.ctypes.data, workspace.state.ctypes.data, end_ns, self.threads,
            )
        )  # fmt: skip
