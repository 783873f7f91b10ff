"""The command line, `coro-rt`: whatever prints, configures logging or ends the process is in this folder.

`demo` shows best what the library is for, and is written to be read. `app` is where a command starts and its
errors end; `options` and `output` are what commands share; `loop` runs them, `opened` gets them a model,
`answer` reads and times a stream.
"""

from coro_rt.cli.app import main

__all__ = ["main"]
