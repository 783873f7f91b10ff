"""The scheduler's errors, named for the situation."""


class SchedulerError(Exception):
    """A call that the scheduler cannot take: an unknown policy or device, a share that is no share."""


class DeadlockError(SchedulerError):
    """Two or more jobs wait for each other; raised in the one that would have closed the circle."""
