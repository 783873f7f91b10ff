"""`coro-rt simulate`: a recorded run, or a workload that somebody wrote, decided again in virtual time.

With `--soc` on a simulated chip, whose model says what processors there are, what launches take, and joules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.progress import BarColumn, TaskProgressColumn, TextColumn

from coro_rt import SchedulerError, TraceFileError
from coro_rt.cli.options import with_json, with_policies
from coro_rt.cli.output import Output
from coro_rt.cli.simulate_view import figures, processors, sums, tokens, waiting
from coro_rt.schedulers.outcome import Outcome
from coro_rt.schedulers.simulation import simulate as simulated
from coro_rt.schedulers.soc import CHIPS, MODELS, Chip, LanguageModel, get_chip, get_model
from coro_rt.schedulers.soc.language_model import BYTES_PER_WEIGHT
from coro_rt.schedulers.soc.simulation import simulate_on
from coro_rt.schedulers.workload import Workload
from coro_rt.trace.gantt import draw
from coro_rt.trace.reader import Trace, is_trace
from coro_rt.trace.recorded import Recorded
from coro_rt.trace.replay import Differences, replay
from coro_rt.trace.workload_file import BUILT_IN, built_in, read_workload

DEFAULT_MODEL = get_model("llama-3.2-3b")  # whose tokens a trace's launches are on a chip

_T = TypeVar("_T")


def _chip(context: click.Context, parameter: click.Parameter, value: str | None) -> Chip | None:
    return None if value is None else _known(get_chip, value)


def _model(context: click.Context, parameter: click.Parameter, value: str | None) -> LanguageModel | None:
    return None if value is None else _known(get_model, value)


def _known(get: Callable[[str], _T], name: str) -> _T:
    try:
        return get(name)
    except SchedulerError as error:
        raise click.BadParameter(str(error)) from None


def _input(context: click.Context, parameter: click.Parameter, value: str | None) -> Path | str | None:
    """A file, or the name of one of those that come with the package."""
    if value is None or (value in BUILT_IN and not Path(value).exists()):
        return value
    if not Path(value).is_file():
        raise click.BadParameter(
            f"{value!r} is no file, and no workload of our own: those are {', '.join(BUILT_IN)}"
        )
    return Path(value)


@click.command()
@click.argument("file", metavar="[TRACE|WORKLOAD|NAME]", required=False, callback=_input)
@with_policies
@click.option("--soc", "chip", callback=_chip, metavar="CHIP",
              help=f"On a simulated chip, with joules: {', '.join(CHIPS)}.")  # fmt: skip
@click.option("--on", "on", multiple=True, metavar="PROCESSOR",
              help="With --soc: only on this one, and on others that are named so.")  # fmt: skip
@click.option("--model", callback=_model, metavar="NAME",
              help=f"With --soc: the model whose tokens they are: {', '.join(MODELS)}.")  # fmt: skip
@click.option("--weights", type=click.Choice(list(BYTES_PER_WEIGHT)),
              help="With --soc: the format of its weights.")  # fmt: skip
@click.option("--members", type=click.IntRange(1, 1024), metavar="N",
              help="With --soc: how many sequences share a launch at most.")  # fmt: skip
@click.option("--battery", type=click.FloatRange(0, 1), metavar="PART",
              help="With --soc: how full the battery is at the beginning.  [default: 1]")  # fmt: skip
@click.option(
    "--replay", "only_replay", is_flag=True,
    help="Decide a trace again under its own policy, and compare every decision.",
)  # fmt: skip
@click.option("--gantt", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.svg",
              help="Draw the schedules.")  # fmt: skip
@click.option("--from", "from_s", type=click.FloatRange(0), default=0.0, metavar="S",
              help="Where the picture begins, in seconds.")  # fmt: skip
@click.option("--to", "to_s", type=click.FloatRange(0), default=math.inf, metavar="S",
              help="Where the picture ends.")  # fmt: skip
@with_json
def simulate(
    file: Path | str | None, policies: tuple[str, ...], chip: Chip | None, on: tuple[str, ...],
    model: LanguageModel | None, weights: str | None, members: int | None, battery: float | None,
    only_replay: bool, gantt: Path | None, from_s: float, to_s: float, output: Output,
) -> int:  # fmt: skip
    """Decide a recorded run or a written workload again, under other policies, in virtual time.

    `--record FILE` of the other commands makes traces; docs/traces.md says how workloads are written. Waiting
    is a job's whole time ready, while others ran.

    With --soc the work is a language model's tokens on a modelled chip, and the workload may be one of our
    own: day (the default), reading or writing. docs/soc.md says what is modelled, and how well.
    """
    if chip is None:
        given = {
            "--on": on,
            "--model": model,
            "--weights": weights,
            "--members": members,
            "--battery": battery,
        }
        for option, value in given.items():
            if value not in (None, ()):
                raise click.UsageError(f"{option} is of a simulated chip: name one with --soc")
    if file is None:
        if chip is None:
            raise click.UsageError("name a trace or a workload to simulate, or a chip with --soc")
        file = "day"
    if only_replay:
        if chip is not None:
            raise click.UsageError("a replay compares recorded decisions: it takes no --soc")
        return _replay(file, policies, output)
    if to_s <= from_s:
        raise click.BadParameter(f"the picture would end at {to_s:g} s, before it begins", param_hint="--to")
    recorded: Outcome | None = None
    spans = gantt is not None
    if isinstance(file, str):
        workload = built_in(file)
    elif is_trace(file):
        trace = Trace(file)
        found = Recorded(trace, spans=spans)
        if not found.complete:
            output.note(f"{file} breaks off: it is simulated as far as it goes")
        workload, recorded = found.workload, found.outcome
        policies = policies or (trace.header.policy,)
    else:
        workload = read_workload(file)
    policies = policies or ("dynamic",)
    simulator: Callable[..., Outcome] = simulated
    if chip is not None:
        for name in on:
            _known(chip.processor, name)
        workload = _in_tokens(workload, model, weights, members)
        simulator = partial(simulate_on, chip, on=on, battery=1.0 if battery is None else battery)
    outcomes = [_simulate(simulator, workload, policy, output, spans=spans) for policy in policies]
    shown = [(outcome.policy, outcome) for outcome in outcomes]
    if recorded is not None:
        shown.insert(0, ("recorded", recorded))
    output.table(waiting(shown))
    output.table(sums(shown))
    if chip is not None:
        output.table(tokens(chip, outcomes))
        output.table(processors(outcomes))
    for outcome in outcomes:
        if outcome.ejected is not None:
            output.note(f"policy {outcome.policy!r} was replaced by 'dynamic': {outcome.ejected}")
    if gantt is not None:
        try:
            picture = draw(shown, from_s=from_s, to_s=to_s)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--from") from None
        gantt.write_text(picture, encoding="utf-8")
    result: dict[str, Any] = {"file": str(file), "policies": [figures(outcome) for outcome in outcomes]}
    if chip is not None:
        result["soc"] = chip.name
    if recorded is not None:
        result["recorded"] = figures(recorded)
    output.json(result)
    return 0


def _in_tokens(
    workload: Workload, model: LanguageModel | None, weights: str | None, members: int | None
) -> Workload:
    """The same with the options' model: launches that a trace has in seconds are tokens of it on a chip."""
    batches = tuple(
        batch if model is None and isinstance(batch, LanguageModel) else (model or DEFAULT_MODEL)
        for batch in workload.batches
    )
    if weights is not None:
        batches = tuple(batch.quantized(weights) for batch in batches)
    return replace(workload, batches=batches, members=members or workload.members)


def _simulate(
    simulator: Callable[..., Outcome], workload: Workload, policy: str, output: Output, *, spans: bool
) -> Outcome:
    """One simulation, with a bar for how far it is."""
    service_s: dict[str, float] = dict.fromkeys(workload.devices, 0.0)
    for job in workload.jobs:
        service_s[job.device] += job.service_s
    last_s = max((job.arrives_s for job in workload.jobs), default=0.0)
    progress = output.progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    bar = progress.add_task(policy, total=max(last_s, *service_s.values()) or None)
    with progress:
        return simulator(
            workload,
            policy,
            spans=spans,
            progress=lambda now: progress.update(bar, completed=now, refresh=True),
        )


def _replay(file: Path | str, policies: tuple[str, ...], output: Output) -> int:
    if isinstance(file, str) or not is_trace(file):
        raise TraceFileError(f"{file} is no trace, so it has no decisions to compare: leave --replay out")
    if len(policies) > 1:
        raise click.BadParameter("a replay takes one policy: the recorded one", param_hint="--policy")
    found = replay(Trace(file), policies[0] if policies else None)
    if not found.complete:
        output.note(f"{file} breaks off: it was compared as far as it goes")
    output.line(_verdict(found))
    for difference in found.first:
        output.line(str(difference))
    if found.broke_off is not None:
        output.line(found.broke_off)
    output.json(
        {
            "file": str(file),
            "calls": found.calls,
            "decisions": found.decisions,
            "differences": found.count,
            "first": [str(difference) for difference in found.first],
            "broke_off": found.broke_off,
            "complete": found.complete,
        }
    )
    return 1 if found else 0


def _verdict(found: Differences) -> str:
    what = f"{found.calls:,} calls, {found.decisions:,} decisions"
    if not found:
        return f"{what}: all as recorded"
    return f"{what}: {found.count:,} came out otherwise than recorded"
