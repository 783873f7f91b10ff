"""Decisions: what runs next, and where. Pure: no threads, no clock, no arrays, no input or output."""

if __name__ != "coro_rt.schedulers":  # one file, one name
    raise ImportError("import coro_rt.schedulers, not " + __name__)
