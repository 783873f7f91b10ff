"""How urgent work is: five levels, the ladder of Apple's and OpenHarmony's systems."""

from enum import IntEnum


class QoS(IntEnum):
    """Larger is more urgent."""

    BACKGROUND = 0  # nobody is waiting: indexing, summaries of an inbox
    UTILITY = 1  # somebody may look at the progress: a download, an export
    DEFAULT = 2
    USER_INITIATED = 3  # asked for, and waited for, by a person
    USER_INTERACTIVE = 4  # a person is looking at the answer as it appears
