"""Policies by name: one table, and one function that turns what a user gives into a policy."""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from math import inf
from types import MappingProxyType

from coro_rt.schedulers.dynamic import Dynamic
from coro_rt.schedulers.edf import Edf
from coro_rt.schedulers.eevdf import Eevdf
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.fair import Fair
from coro_rt.schedulers.fifo import Fifo
from coro_rt.schedulers.laxity import Laxity
from coro_rt.schedulers.mlfq import Mlfq
from coro_rt.schedulers.policy import Policy
from coro_rt.schedulers.powersave import PowerSave
from coro_rt.schedulers.strict import Strict

PolicyLike = str | Policy | type[Policy]

ENTRY_POINTS = "coro_rt.policies"  # the group in which installed packages offer theirs
_OWN = (Dynamic, Fair, Eevdf, Strict, Fifo, Mlfq, Edf, Laxity, PowerSave)
POLICIES: Mapping[str, type[Policy]] = MappingProxyType({policy.name: policy for policy in _OWN})


def get_policy(policy: PolicyLike) -> Policy:
    """A policy from a policy, a policy class, a dotted path `"package.module:Class"`, or a name: ours, or one
    of an entry point in the group `coro_rt.policies`.

    Raises SchedulerError for anything else, and for a class that cannot be made without arguments.
    """
    found: object = policy
    if isinstance(policy, str):
        found = _load(policy) if ":" in policy else POLICIES.get(policy) or _installed(policy)
    if isinstance(found, type) and issubclass(found, Policy):
        kind: type[Policy] = found
        try:
            found = kind()
        except Exception as error:
            raise SchedulerError(f"{kind.__name__}() raised {type(error).__name__}: {error}") from error
    if not isinstance(found, Policy):
        raise SchedulerError(f"a policy is a name, a Policy or a subclass of it, not {found!r}")
    slice_s: object = found.slice_s
    if isinstance(slice_s, bool) or not isinstance(slice_s, int | float) or not 0 < slice_s < inf:
        raise SchedulerError(
            f"policy {found.name!r} has slice_s = {slice_s!r}; it takes a positive number of seconds"
        )
    return found


def _load(path: str) -> object:
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # whatever the module does when it is imported
        raise SchedulerError(f"cannot load the policy {path!r}: {type(error).__name__}: {error}") from error


def _installed(name: str) -> object:
    offered = entry_points(group=ENTRY_POINTS)
    if name not in offered.names:
        known = ", ".join(sorted({*POLICIES, *offered.names}))
        raise SchedulerError(f"no policy {name!r}; known are {known}, or give a path 'package.module:Class'")
    point = offered[name]
    try:
        return point.load()
    except Exception as error:
        raise SchedulerError(
            f"cannot load the policy {name!r} from {point.value}: {type(error).__name__}: {error}"
        ) from error
