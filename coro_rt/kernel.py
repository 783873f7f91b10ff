"""Kernels: what jobs launch on devices. A kernel has one name and an implementation per kind of device.

An implementation is `(device, launch, slice_s) -> bool`: it runs quanta until the launch is done (True,
`launch.result` set) or until `device.preempt_requested()` or `slice_s` seconds have passed (False), and goes
on from `launch.state` at the next call. `@kernel` makes one for the CPU from a plain function.

On devices where several launches cost little more than one, a kernel may have a `Joint` instead, which runs
them together; which ones, the scheduler decides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from coro_rt.errors import KernelError
from coro_rt.schedulers.batch import Batch
from coro_rt.trap import Trap

if TYPE_CHECKING:
    from coro_rt.devices.base import Device
    from coro_rt.job import Job

P = ParamSpec("P")
T = TypeVar("T")

Implementation = Callable[[Any, "Launch[Any]", float], bool]

QUANTUM_S = 0.001  # what a call of a function over a range aims at: half of the longest quantum


class Launch(Trap, Generic[T]):
    """One request to run a kernel. `await` it in a job, once; gives `result`.

    `state` is the implementation's, kept while the launch is suspended; None at the first call. A device with
    a clock of its own says in `measured_s` how long it has worked in a call; None: as long as the call took.
    `device` is the name of the one that it is to run on; None: that is open. `spent_s`: on it so far.
    `begun`: an implementation has been called for it.
    """

    __slots__ = (
        "__weakref__",
        "args",
        "begun",
        "device",
        "kernel",
        "measured_s",
        "result",
        "spent_s",
        "state",
    )

    batch: Batch | None = None  # see BatchLaunch
    joint: Joint | None = None

    def __init__(self, kernel: Kernel[..., T], args: tuple[Any, ...], device: str | None = None) -> None:
        self.kernel = kernel
        self.args = args
        self.device = device
        self.begun = False
        self.spent_s = 0.0
        self.state: Any = None
        self.result: T | None = None
        self.measured_s: float | None = None

    def __repr__(self) -> str:
        return f"<Launch of {self.kernel.name}: await it inside a job>"

    if TYPE_CHECKING:
        from collections.abc import Generator

        def __await__(self) -> Generator[Any, Any, T]: ...


class BatchLaunch(Launch[T]):
    """A launch that may run as one with others of its batch. It wants `rows`, and gets `granted` of them.

    As a trap it is what a job waits for that rides in another one's.
    """

    __slots__ = ("batch", "granted", "job", "joint", "rows")

    job: Job[Any]  # whose it is, once it has begun

    def __init__(self, kernel: Kernel[..., T], args: tuple[Any, ...], batch: Batch, rows: int) -> None:
        super().__init__(kernel, args)
        self.batch = batch
        self.joint = None  # what it runs in, once it has begun
        self.rows = rows
        self.granted = 0

    def leave(self, job: Job[Any]) -> bool:
        return True  # the worker takes it out of `joint` before the job's code runs again

    def what(self) -> str:
        return "its share of a launch"


class Joint(ABC):
    """Launches of one batch that run as one: made when they begin, by the worker that runs it.

    `members` may become fewer on the way; the first led when it began. `took`, if set when it is done, is
    what the batch learns from: so many rows took so many seconds.
    """

    took: tuple[int, float] | None = None

    def __init__(self, launches: Iterable[BatchLaunch[Any]]) -> None:
        self.members = dict.fromkeys(launches)
        for launch in self.members:
            launch.joint = self

    @abstractmethod
    def run(self, device: Any, slice_s: float) -> bool:
        """Like an implementation; if done, each member has its `result`."""

    def leave(self, launch: BatchLaunch[Any]) -> None:
        """Between calls of `run`: from now on nothing is touched that belongs to this launch's job."""
        launch.joint = None
        if launch in self.members:
            del self.members[launch]
            self.left(launch)
            if not self.members:
                self.close()

    def end(self) -> None:
        """It is over for all members: done, or it failed."""
        self.close()
        for launch in self.members:
            launch.joint = None  # so that no cycle keeps what they hold
        self.members.clear()

    @abstractmethod
    def left(self, launch: BatchLaunch[Any]) -> None:
        """A launch is no longer among the members."""

    @abstractmethod
    def close(self) -> None:
        """It runs no more: done, failed, or nobody is left. Gives everything back."""


class Kernel(Generic[P, T]):
    """A kernel; calling it makes a Launch. Implementations are looked up by the device's kind.

    `size(*args)` is how much work a launch is, for placement, in a unit in which its time would grow in
    proportion at best; by default all launches are alike. `idempotent`: whatever was done of a launch, to run
    it again from the beginning gives the same. A launch that placement has sent to a device which then fails
    is run on another one; without this only if it had not begun.
    """

    def __init__(
        self,
        name: str,
        *,
        size: Callable[..., float] | None = None,
        idempotent: bool = False,
        **implementations: Implementation,
    ) -> None:
        self.name = name
        self.size = size
        self.idempotent = idempotent
        self._implementations = implementations

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Launch[T]: ...
    @overload
    def __call__(self, *args: Any, on: str) -> Launch[T]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Launch[T]:
        """A launch. `on=` is the name of the device that it is to run on, wherever its job is."""
        on = kwargs.pop("on", None)
        if kwargs:
            raise KernelError(f"{self.name} takes its arguments by position, not {', '.join(kwargs)}=")
        return Launch(self, args, on)

    @property
    def kinds(self) -> Collection[str]:
        """The kinds of device that it has an implementation for."""
        return self._implementations.keys()

    def on(self, kind: str) -> Callable[[Implementation], Implementation]:
        """Decorator: the implementation for devices of this kind."""

        def register(implementation: Implementation) -> Implementation:
            self._implementations[kind] = implementation
            return implementation

        return register

    def implementation(self, kind: str) -> Implementation:
        """The code for a kind of device. Raises KernelError, naming both, if there is none."""
        found = self._implementations.get(kind)
        if found is None:
            kinds = ", ".join(sorted(self._implementations)) or "none"
            raise KernelError(
                f"kernel {self.name!r} has no implementation for devices of kind {kind!r} (it has: {kinds}): "
                f"register one with @{self.name}.on({kind!r})"
            )
        return found

    def __repr__(self) -> str:
        return f"<Kernel {self.name} for {', '.join(sorted(self._implementations)) or 'nothing'}>"


class BatchKernel(Kernel[P, T]):
    """A kernel whose launches may run as one. `batch(*args)` says which ones may, and how many rows one has.

    Devices of a kind without a `jointly` run its implementation, one launch after the other.
    """

    def __init__(
        self, name: str, batch: Callable[P, tuple[Batch, int]], **implementations: Implementation
    ) -> None:
        super().__init__(name, idempotent=False, **implementations)
        self._batch = batch
        self.joints: dict[str, Callable[[list[BatchLaunch[Any]]], Joint]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Launch[T]:
        """A launch. It runs where its job is, as it works with what is there: it has no `on=`."""
        if kwargs:
            raise KernelError(f"{self.name} takes its arguments by position, not {', '.join(kwargs)}=")
        batch, rows = cast(Any, self._batch)(*args)
        return BatchLaunch(self, args, batch, rows)

    def jointly(self, kind: str) -> Callable[[type[Joint]], type[Joint]]:
        """Decorator: the Joint for devices of this kind."""

        def register(joint: type[Joint]) -> type[Joint]:
            self.joints[kind] = joint
            return joint

        return register


@overload
def kernel(fn: Callable[P, T], /) -> Kernel[P, T]: ...
@overload
def kernel(*, size: Callable[..., int]) -> Callable[[Callable[..., object]], Kernel[..., None]]: ...
def kernel(fn: Callable[..., Any] | None = None, /, *, size: Callable[..., int] | None = None) -> Any:
    """Make a kernel for the CPU from a plain function, which should release the GIL
    (`@numba.njit(nogil=True)`).

    `@kernel`: the function runs whole, as one quantum; the launch gives what it returns. Keep it short.

    `@kernel(size=lambda *args: n)`: the function is `fn(start, stop, *args)` and works on a part of
    `range(n)`; it is called with parts that take about 1 ms, and may be suspended between them. The launch
    gives None: results go into the arguments.
    """
    if fn is None and size is None:
        raise TypeError("use @kernel, or @kernel(size=lambda *args: n)")

    def make(fn: Callable[..., Any]) -> Kernel[..., Any]:
        if not callable(fn):
            raise TypeError(f"@kernel takes a function, not {fn!r}")
        implementation = _whole(fn) if size is None else _Ranged(fn, size)
        return Kernel(getattr(fn, "__name__", type(fn).__name__), size=size, cpu=implementation)

    return make if fn is None else make(fn)


def _whole(fn: Callable[..., Any]) -> Implementation:
    def run(device: Device, launch: Launch[Any], slice_s: float) -> bool:
        launch.result = fn(*launch.args)
        return True

    return run


class _Ranged:
    """Runs `fn(start, stop, *args)` in parts of about QUANTUM_S. What a part should be is learnt from the
    calls before; the first is small, and each at most four times the one before, so that a wrong guess costs
    little."""

    def __init__(self, fn: Callable[..., Any], size: Callable[..., int]) -> None:
        self._fn = fn
        self._size = size
        self._learnt = 8  # items to begin a launch with

    def __call__(self, device: Device, launch: Launch[Any], slice_s: float) -> bool:
        if launch.state is None:
            n = self._size(*launch.args)
            if isinstance(n, bool) or not hasattr(n, "__index__") or n < 0:
                raise KernelError(
                    f"the size of {launch.kernel.name!r} is {n!r}, not a whole number, zero or more"
                )
            # (next item, end, items per call); the launch's arguments may be heavier than the last one's
            launch.state = (0, n.__index__(), max(1, self._learnt // 8))
        start, end, step = launch.state
        began = now = perf_counter()
        while start < end:
            stop = min(start + step, end)
            self._fn(start, stop, *launch.args)
            took = -now + (now := perf_counter())
            if stop - start == step or took > QUANTUM_S:
                step = max(1, min(4 * step, int((stop - start) * QUANTUM_S / max(took, 1e-9))))
                self._learnt = step
            start = stop
            if start < end and (device.preempt_requested() or now - began >= slice_s):
                launch.state = (start, end, step)
                return False
        return True
