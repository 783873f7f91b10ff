"""Numbers: pure functions on arrays, each with a NumPy reference and an implementation per kind of device."""

if __name__ != "coro_rt.kernels":  # one file, one name: numba's cache keys on it
    raise ImportError("import coro_rt.kernels, not " + __name__)
