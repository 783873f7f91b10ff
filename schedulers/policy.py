"""What a policy is: the order of a device's ready entries. Only `key` is required; smaller keys run sooner.

A policy is asked for a key when an entry becomes ready (submitted, woken, given way), when its urgency
changes, when a running entry's slice is over (then as if it became ready now), and for all of them after
`on_power`. The key stays put while
the entry waits. To write one, copy this:

    class ShortestFirst(Policy):
        # Short jobs overtake long ones, and waiting still counts.
        def key(self, job: Entry, now: float) -> float:
            return job.submitted_at + 10 * job.predicted_seconds_left

`submitted_at` is when a job came, `ready_since` since when it waits for its next turn: a key of the latter
starts afresh after each turn, so that jobs take turns; with the former a job that was begun keeps its place.
"""

from typing import ClassVar

from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.power import PowerState

Key = float | tuple[float, ...]


class Policy:
    """Orders ready entries. Reads them and changes nothing but their `vtime`, which is its own to use.

    `dynamic` takes over, within the same decision, from a policy one of whose methods raises or is slow time
    and again (see `Scheduler`), whose key is not a number or a tuple of numbers (or is NaN, or changes
    between the two shapes), whose `preempts` does not return a bool, or which is `bounded` and lets somebody
    wait for longer than both `max_wait_s` and its own `bound_s`.
    """

    name: ClassVar[str] = ""  # what people type; the class's name in lower case if empty
    bounded: ClassVar[bool] = False  # True: `bound_s`, and the docstring in words, bound every wait
    # False: background has no share beyond what the keys give it. Read when it begins, and after `on_power`.
    guarantees_background: bool = True
    slice_s: float = 0.002  # how long an entry runs before others with the same claim get their turn

    def __init_subclass__(cls) -> None:
        if "name" not in cls.__dict__:
            cls.name = cls.__name__.lower()

    def key(self, job: Entry, now: float) -> Key:
        """The place of `job` among the ready; smaller runs sooner, equals as they became ready."""
        raise NotImplementedError

    def on_ready(self, job: Entry, now: float) -> None:
        """`job` was submitted or has woken; its key is asked for next. Default: nothing."""

    def on_ran(self, job: Entry, seconds: float, now: float) -> None:
        """`job` ran for `seconds` on its device. Default: nothing."""

    def defer_until(self, job: Entry, now: float) -> float:
        """When `job`, which was submitted or has woken, may be granted the device at the earliest.

        Until then the device stays idle rather than run it; but it is not put off beyond `max_wait_s`, nor
        once it has begun its turn, nor when it is waited for or expedited or its urgency changes. Default:
        now.
        """
        return now

    def on_power(self, state: PowerState, now: float) -> None:
        """What the machine runs on or how warm it is has changed; or it begins to decide, and that is known.

        Keys are asked for, and who has not begun is put off, anew. Default: nothing, and nothing is.
        """

    def stretch(self, job: Entry, now: float) -> float:
        """How many times as long as at the highest frequency of its device `job` may take, if that saves
        energy and its deadline allows it. 1: a lower frequency is taken if it is no slower, as where memory
        is what is waited for. Asked where frequencies can be chosen: so far on simulated chips. Default: 0,
        the highest is taken."""
        return 0.0

    def on_done(self, job: Entry, now: float) -> None:
        """`job` has ended. Default: nothing."""

    def preempts(self, candidate: Entry, running: Entry, now: float) -> bool:
        """Whether `candidate` takes the device from `running` within its slice. Default: a smaller key does.

        `running.key` is the key with which its slice began, so that those who waited then do not preempt it,
        and equals never do. Once the slice is over this is not asked: the smaller key goes on.
        """
        return bool(candidate.key < running.key)

    def bound_s(self, job: Entry, others: int, turn_s: float) -> float:
        """For `bounded` policies: the longest wait of `job` while at most `others` others are ready, each of
        whose turns takes `turn_s` at most, in seconds of what the policy has to give (background's guaranteed
        share and other tenants' come on top). Default: nobody has a third turn before everybody's first."""
        return 2 * (others + 1) * turn_s
