"""`python -m coro_rt` is `coro-rt`."""

from coro_rt.cli import main

main()
