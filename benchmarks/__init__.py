"""Benchmarks: coro_rt side by side with its peers, in one process and interleaved. `python -m
benchmarks.run`.

They are no tests: nothing here fails because a machine is slow.
"""
