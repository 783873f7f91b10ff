"""The embedding model itself: its tokens and vectors against another implementation's, and quantized.

`data/all-minilm-l6-v2.json` has token ids and vectors that the `transformers` package computed (the file says
how); vectors are rounded to five digits there.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coro_rt import open_runtime
from coro_rt.errors import ModelError
from coro_rt.llm.catalog import pull
from coro_rt.llm.quantize import quantize

pytestmark = [pytest.mark.model, pytest.mark.anyio]

REFERENCE = json.loads((Path(__file__).parent.parent / "data" / "all-minilm-l6-v2.json").read_text())["texts"]
TEXTS = [entry["text"] for entry in REFERENCE]
VECTORS = np.array([entry["embedding"] for entry in REFERENCE])


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture(scope="module")
def minilm_path() -> Iterator[Path]:
    """The model's file, fetched and converted if it is missing; skips where it cannot be had."""
    try:
        yield pull("all-minilm-l6-v2")
    except ModelError as error:
        pytest.skip(f"no model: {error}")


async def cosines(path: Path, device: str = "cpu") -> np.ndarray:
    async with open_runtime(devices=[device]) as runtime, await runtime.load_model(path) as llm:
        assert [llm.tokenizer.encode(text) for text in TEXTS] == [entry["ids"] for entry in REFERENCE]
        got = await llm.embed(TEXTS)
    return (got * VECTORS).sum(1) / np.linalg.norm(VECTORS, axis=1)


async def test_tokens_and_vectors_are_those_of_another_implementation(minilm_path: Path) -> None:
    assert (await cosines(minilm_path)).min() > 0.99999


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
async def test_so_are_those_of_a_gpu(minilm_path: Path) -> None:
    assert (await cosines(minilm_path, "gpu")).min() > 0.99999


@pytest.mark.parametrize(
    ("kind", "least"), [("f16", 0.99999), ("q8_0", 0.999), ("q4_1", 0.97), ("q4_0", 0.96)]
)
async def test_quantized_vectors_point_nearly_the_same_way(
    kind: str, least: float, minilm_path: Path, tmp_path: Path
) -> None:
    quantize(minilm_path, tmp_path / "q.gguf", kind)
    found = await cosines(tmp_path / "q.gguf")
    assert np.median(found) > least  # an empty text, two control tokens alone, is hit harder
