"""The monitor: a local socket through which `coro-rt top` looks into a running process of the same user.

`place` says where the sockets are and keeps others out; `protocol` what is spoken; `server` answers, in a
thread of the watched process; `client` finds such processes and asks.
"""
