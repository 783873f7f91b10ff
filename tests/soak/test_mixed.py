"""Over all devices at once, with preemption, cancels and faults of every kind: nothing is lost, nothing
leaks, and wherever the margin is clear the tokens are those of the undisturbed run.

The small run is made with the other tests; the soak takes minutes, with the default model.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from soak_mixed import Outcome, mixed_run

from coro_rt.faults import REASONS

sys.path.insert(0, str(Path(__file__).parent.parent / "llm"))

SEED = 20_260_722
CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "data" / "smollm2-greedy.json").read_text()
)["cases"]


def check(outcome: Outcome, rounds: int, *, spare: bool) -> None:
    """What must be true of every run."""
    assert not (spare and outcome.ended["lost with all devices"]), f"{outcome}: texts were lost"
    assert all(counted[reason] >= rounds for counted in outcome.faults.values() for reason in REASONS)
    assert outcome.readmitted > 0
    assert outcome.ended["ran to the end"] > 0
    assert outcome.preemptions + outcome.suspensions > 0
    assert outcome.judged > 0
    assert not outcome.wrong, f"{outcome}: {outcome.wrong}"


def noise(rng: random.Random) -> list[int]:
    """For a model that knows no words."""
    return [rng.randrange(250) for _ in range(rng.choice((2, 9, 40, 90)))]


def beginnings(rng: random.Random) -> list[int]:
    """Of texts that the default model wrote."""
    case = rng.choice(CASES)
    text = case["prompt_tokens"] + case["tokens"]
    return list(text[: rng.randint(5, len(text))])


@pytest.mark.anyio
async def test_a_small_mixed_run_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], anyio_backend: Any
) -> None:
    from tiny import Tiny

    path = Tiny(form="F16").write(tmp_path / "tiny.gguf")
    exact = {"weights": "float32", "activations": "float32", "cache": tmp_path, "buckets": (16, 64)}
    outcome = await mixed_run(
        path, seed=SEED, rounds=1, lanes=4, of=6, prompts=noise, npu_options=exact, every=3.0
    )
    with capsys.disabled():
        print(f"\n  {anyio_backend}: {outcome}", flush=True)
    check(outcome, 1, spare=True)
    assert not outcome.others  # nothing is rounded that could go the other way


@pytest.mark.soak
@pytest.mark.model
@pytest.mark.anyio
@pytest.mark.parametrize("spare", [True, False])
async def test_a_long_mixed_run_of_the_default_model_loses_nothing(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], anyio_backend: Any, spare: bool
) -> None:
    outcome = await mixed_run(
        model_path, seed=SEED, rounds=4, lanes=6, of=8, prompts=beginnings, npu_options={"cache": tmp_path},
        spare=spare,
    )  # fmt: skip
    with capsys.disabled():
        print(f"\n  {anyio_backend}: {outcome}", flush=True)
    check(outcome, 4, spare=spare)
