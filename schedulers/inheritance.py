"""Inheritance: who is waited for is as urgent as those who wait, transitively, while they wait.

An entry waits for one other at most, so the links form trees, and a circle can only close at a root. An
entry's key is the smallest of its own and its waiters' keys, its level the highest of its own and theirs.
"""

from collections.abc import Iterable

from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.errors import DeadlockError
from coro_rt.schedulers.qos import QoS


def check_circle(entry: Entry, on: Entry) -> None:
    """Raises DeadlockError if `on` is, or waits for, `entry`."""
    names = [entry.name]
    link: Entry | None = on
    while link is not None:
        names.append(link.name)
        if link is entry:
            raise DeadlockError(" waits for ".join(names))
        link = link.waits_on


def link(entry: Entry, on: Entry) -> None:
    """`entry` waits for `on` from now on."""
    entry.waits_on = on
    if isinstance(on.waiters, tuple):
        on.waiters = {}
    on.waiters[entry] = None
    inherit(on)


def unlink(entry: Entry) -> None:
    """Ends what an entry waits for."""
    on = entry.waits_on
    if on is not None:
        entry.waits_on = None
        assert isinstance(on.waiters, dict)
        del on.waiters[entry]
        inherit(on)


def last_waited_for(entry: Entry) -> Entry:
    """Whom an entry waits for in the end; itself, if it waits for nobody."""
    while entry.waits_on is not None:
        entry = entry.waits_on
    return entry


def release(entry: Entry) -> None:
    """Nobody waits for this entry any more."""
    for waiter in entry.waiters:
        waiter.waits_on = None
    entry.waiters = ()


def inherit(entry: Entry) -> None:
    """Works out the key and level of an entry, of whom it waits for, and so on; who is waited for is not put
    off any more."""
    link: Entry | None = entry
    while link is not None and link.lane is not None:  # before it is submitted it has no key
        key, qos = link.own_key, link.qos
        for waiter in link.waiters:
            if waiter.key < key:
                key = waiter.key
            if waiter.effective_qos > qos:
                qos = waiter.effective_qos
        link.effective_qos = qos
        background = qos is QoS.BACKGROUND
        if not link.ticket:
            link.key = key
            link.background = background
        elif key != link.key or background is not link.background or (link.deferred and link.waiters):
            link.lane.queue.rekey(link, key, background=background)
        link = link.waits_on


def inherit_keys(entries: Iterable[Entry]) -> None:
    """Hands new own keys, which stand in `key` too, along the links; the levels have not changed."""
    for entry in entries:
        link = entry.waits_on
        while link is not None and link.lane is not None and entry.key < link.key:
            link.key = entry.key
            link = link.waits_on
