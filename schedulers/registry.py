"""Policies by name: one table, and one function that turns what a user gives into a policy."""

from collections.abc import Mapping
from importlib import import_module
from math import inf
from types import MappingProxyType

from coro_rt.schedulers.dynamic import Dynamic
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.fair import Fair
from coro_rt.schedulers.fifo import Fifo
from coro_rt.schedulers.policy import Policy
from coro_rt.schedulers.strict import Strict

PolicyLike = str | Policy | type[Policy]

POLICIES: Mapping[str, type[Policy]] = MappingProxyType({p.name: p for p in (Fifo, Strict, Fair, Dynamic)})


def get_policy(policy: PolicyLike) -> Policy:
    """A policy from a name, a policy, a policy class or a dotted path `"package.module:Class"`.

    Raises SchedulerError for anything else, and for a class that cannot be made without arguments.
    """
    found: object = policy
    if isinstance(policy, str):
        found = _load(policy) if ":" in policy else POLICIES.get(policy)
        if found is None:
            known = ", ".join(sorted(POLICIES))
            raise SchedulerError(
                f"no policy {policy!r}; known are {known}, or give a path 'package.module:Class'"
            )
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
