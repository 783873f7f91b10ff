"""Where a command starts and where errors end: one line on standard error, and an exit code.

0: well; 1: something failed; 2: what was typed cannot be right; 130: Ctrl-C. A traceback only where
CORO_RT_DEBUG is set.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from io import TextIOWrapper

import click

from coro_rt import CoroRtError, ModelNotFound, __version__
from coro_rt.cli.bench import bench
from coro_rt.cli.chat import chat
from coro_rt.cli.compare import compare
from coro_rt.cli.complete import complete
from coro_rt.cli.demo import demo
from coro_rt.cli.devices import devices
from coro_rt.cli.models import models, pull
from coro_rt.cli.quantize import quantize
from coro_rt.cli.simulate import simulate
from coro_rt.cli.top import top

logger = logging.getLogger("coro_rt")


@click.group(
    commands=[demo, chat, complete, pull, models, quantize, devices, bench, compare, simulate, top],
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="coro-rt %(version)s")
@click.option("-v", "--verbose", count=True, help="Log more; twice: everything.")
@click.pass_context
def cli(context: click.Context, verbose: int) -> None:
    """Run quantized language models as prioritised, preemptible jobs."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.handlers = [handler]
    logger.setLevel([logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)])
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command; returns its exit code."""
    if isinstance(sys.stdout, TextIOWrapper):  # a model's text has characters that not every terminal has
        sys.stdout.reconfigure(errors="replace")
    try:
        code = cli.main(arguments, prog_name="coro-rt", standalone_mode=False)
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        return 130
    except (BrokenPipeError, SystemExit):  # nobody reads our output any more; click and rich exit at that
        _drop_output()
        return 1
    except Exception as error:
        if os.environ.get("CORO_RT_DEBUG"):
            raise
        if isinstance(error, OSError):
            _drop_output()
        message, code = explained(error)
        print("error:", " ".join(message.split()), file=sys.stderr)
        return code
    return code if isinstance(code, int) else 0


def _drop_output() -> None:
    """What is still buffered would fail again when the interpreter flushes it at its end."""
    with suppress(OSError):  # not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explained(error: Exception) -> tuple[str, int]:
    """What to say about an error, and the exit code."""
    match error:
        case click.ClickException():
            return error.format_message(), error.exit_code
        case ModelNotFound():
            return str(error), 2
        case CoroRtError():
            return str(error), 1
        case OSError():
            return f"{error.filename or 'input or output'}: {error.strerror or error}", 1
        case _:
            return f"{type(error).__name__}: {error} (a bug? CORO_RT_DEBUG=1 shows where)", 1
