"""Memory: one budget per runtime, what is held against it, and who has to make room when it is spent."""

from coro_rt.memory.budget import Kind, MemoryBudget, Reservation, format_bytes, parse_bytes
from coro_rt.memory.usage import MemoryUse

__all__ = ["Kind", "MemoryBudget", "MemoryUse", "Reservation", "format_bytes", "parse_bytes"]
