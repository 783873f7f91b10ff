"""What a policy is: the order of a device's ready entries. Only `key` is required; smaller keys run sooner.

A policy is asked for a key when an entry becomes ready (submitted, woken, given way), when its urgency
changes, and when a running entry's slice is over (then as if it became ready now). The key stays put while
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

Key = float | tuple[float, ...]


class Policy:
    """Orders ready entries. Reads them and changes nothing but their `vtime`, which is its own to use.

    A method that raises, a key that is not a number or a tuple of numbers (or is NaN, or changes between the
    two shapes), and a `preempts` that does not return a bool eject the policy: `dynamic` takes over.
    """

    name: ClassVar[str] = ""  # what people type; the class's name in lower case if empty
    bounded: ClassVar[bool] = False  # True: the docstring gives a bound on every wait
    guarantees_background: ClassVar[bool] = (
        True  # False: background has no share beyond what the keys give it
    )
    slice_s: float = 0.002  # how long an entry runs before others with the same claim get their turn

    def __init_subclass__(cls) -> None:
        if "name" not in cls.__dict__:
            cls.name = cls.__name__.lower()

    def key(self, job: Entry, now: float) -> Key:
        """The place of `job` among the ready; smaller runs sooner, equals as they became ready."""
        raise NotImplementedError

    def on_ready(self, job: Entry, now: float) -> None:
        """`job` becomes ready, or its slice is over; its key is asked for next. Default: nothing."""

    def on_ran(self, job: Entry, seconds: float, now: float) -> None:
        """`job` ran for `seconds` on its device. Default: nothing."""

    def on_done(self, job: Entry, now: float) -> None:
        """`job` has ended. Default: nothing."""

    def preempts(self, candidate: Entry, running: Entry, now: float) -> bool:
        """Whether `candidate` takes the device from `running` within its slice. Default: a smaller key does.

        `running.key` is the key with which its slice began, so that those who waited then do not preempt it,
        and equals never do. Once the slice is over this is not asked: the smaller key goes on.
        """
        return bool(candidate.key < running.key)
