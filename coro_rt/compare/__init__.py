"""`coro-rt compare`: what a thread per task costs an assistant, and what coroutines with priorities save.

Each measurement is a file that gives probes (`statistics.Probe`): `switch`, `roundtrip`, `starting`,
`kernel_length`, `decisions`; `scene` and `busy_host` run a model under the ways of `drivers`. `run` takes
them all in turns, `claims` says what they show, `report` writes it down for people.
"""
