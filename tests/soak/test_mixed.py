"""Over all devices at once, with preemption, cancels and faults of every kind: nothing is lost, nothing
leaks, and wherever the margin is clear the tokens are those of the undisturbed run.

The small run is made with the other tests; the soak takes minutes, with the default model.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
from soak_mixed import Outcome, mixed_run

from coro_rt.faults import REASONS

sys.path.insert(0, str(Path(__file__).parent.parent / "llm"))

SEED = 20_260_722


def check(outcome: Outcome, rounds: int) -> None:
    """What must be true of every run."""
    assert all(counted[reason] >= rounds for counted in outcome.faults.values() for reason in REASONS)
    assert outcome.readmitted > 0
    assert outcome.ended["ran to the end"] > 0
    assert outcome.judged > 0
    assert not outcome.wrong, f"{outcome}: {outcome.wrong}"


@pytest.mark.anyio
async def test_a_small_mixed_run_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], anyio_backend: Any
) -> None:
    from tiny import Tiny

    path = Tiny(form="F16").write(tmp_path / "tiny.gguf")
    exact = {"weights": "float32", "activations": "float32", "cache": tmp_path, "buckets": (16, 64)}
    outcome = await mixed_run(
        path, seed=SEED, rounds=1, lanes=4, of=4, vocabulary=250, npu_options=exact, every=3.0
    )
    with capsys.disabled():
        print(f"\n  {anyio_backend}: {outcome}", flush=True)
    check(outcome, 1)


@pytest.mark.soak
@pytest.mark.model
@pytest.mark.anyio
async def test_a_long_mixed_run_of_the_default_model_loses_nothing(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], anyio_backend: Any
) -> None:
    outcome = await mixed_run(
        model_path, seed=SEED, rounds=4, lanes=6, of=8, vocabulary=40_000, npu_options={"cache": tmp_path}
    )
    with capsys.disabled():
        print(f"\n  {anyio_backend}: {outcome}", flush=True)
    check(outcome, 4)
