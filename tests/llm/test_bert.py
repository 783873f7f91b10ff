"""An encoder against plain NumPy, in every format, on every host; and what is no use asking of it."""

import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from tiny_bert import TinyBert

from coro_rt import QoS, Runtime, open_runtime, qos
from coro_rt.errors import (
    ContextOverflow,
    MemoryBudgetExceeded,
    ModelError,
    ModelFileError,
    RuntimeClosed,
    UnsupportedModel,
)
from coro_rt.kernels.formats import Format
from coro_rt.llm.model import LLM

pytestmark = pytest.mark.anyio

TEXTS = [
    "The cat sat.",
    "",
    "unknown",
    "sitting cats, un-sat!",
    "q" * 120 + " the cat",
    "a b c d " * 30,
    "zzz!",
]

FLOAT_BOUND = 1e-4
"""Of a vector of length 1: keys and values may round the other way in float16."""
INTEGER_BOUND = 1e-2
"""An activation on the edge between two int8 values may round the other way, and so may what follows."""


@pytest.fixture(scope="module")
def bert_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyBert(form="Q4_1").write(tmp_path_factory.mktemp("bert") / "bert.gguf")


@pytest.fixture
async def runtime(anyio_backend: object) -> AsyncIterator[Runtime]:
    async with open_runtime(threads=2) as runtime:
        yield runtime


@pytest.fixture
async def encoder(runtime: Runtime, bert_path: Path) -> AsyncIterator[LLM]:
    async with await runtime.load_model(bert_path) as llm:
        weights = runtime.memory.used
        yield llm
        assert runtime.memory.used == weights, "a job kept memory"
    assert runtime.memory.used == 0


async def check(
    tiny: TinyBert, path: Path, *, bound: float, pooled: int | None = None, device: str = "cpu", **more: Any
) -> None:
    async with (
        open_runtime(devices=[device]) as runtime,
        await runtime.load_model(tiny.write(path, **more)) as llm,
    ):
        got = await llm.embed(TEXTS)
        want = np.stack([tiny.embed(llm.tokenizer.encode(text), pooled=pooled) for text in TEXTS])
    assert got.dtype == np.float32
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    assert np.abs(got - want).max() < bound


@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.parametrize("form", list(Format.known))
async def test_an_encoder_computes_what_the_architecture_says(form: str, tmp_path: Path) -> None:
    bound = INTEGER_BOUND if Format.known[form].quantized else FLOAT_BOUND
    await check(TinyBert(form=form), tmp_path / "m.gguf", bound=bound)


@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.parametrize("options", [{"heads": 1}, {"layers": 5}, {"hidden": 96, "heads": 3}], ids=str)
async def test_other_shapes_compute_what_the_architecture_says(options: Any, tmp_path: Path) -> None:
    await check(TinyBert(**options), tmp_path / "m.gguf", bound=FLOAT_BOUND * 2)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_the_first_row_alone_is_pooled_where_the_file_says_so(tmp_path: Path) -> None:
    await check(TinyBert(), tmp_path / "m.gguf", bound=FLOAT_BOUND, pooled=1, bert__pooling_type=2)


async def test_an_embedding_does_not_depend_on_company_or_threads(encoder: LLM, bert_path: Path) -> None:
    alone = np.concatenate([await encoder.embed([text]) for text in TEXTS])
    assert np.array_equal(await encoder.embed(TEXTS), alone)
    assert np.array_equal(await encoder.embed(TEXTS[::-1] * 13), np.tile(alone[::-1], (13, 1)))
    async with open_runtime(threads=1) as other, await other.load_model(bert_path) as single:
        assert np.array_equal(await single.embed(TEXTS), alone)


async def test_an_urgent_embedding_goes_before_a_long_one_and_both_are_right(encoder: LLM) -> None:
    want = await encoder.embed(TEXTS)
    ended: list[str] = []

    async def background() -> None:
        with qos(QoS.BACKGROUND):
            assert np.array_equal(await encoder.embed(TEXTS * 150), np.tile(want, (150, 1)))
        ended.append("long")

    async with anyio.create_task_group() as group:
        group.start_soon(background)
        for _ in range(5):
            await anyio.sleep(0.002)
            with qos(QoS.USER_INTERACTIVE):
                assert np.array_equal(await encoder.embed(TEXTS), want)
            ended.append("short")
    assert ended[0] == "short"


async def test_a_cancelled_embedding_leaves_nothing(encoder: LLM) -> None:
    for delay in (0, 0.001, 0.02):
        with anyio.move_on_after(delay) as scope:
            await encoder.embed(TEXTS * 500)
        assert scope.cancelled_caught


async def test_no_texts_have_no_embeddings(encoder: LLM) -> None:
    empty = await encoder.embed([])
    assert empty.shape == (0, 256)
    assert empty.dtype == np.float32


async def test_a_text_that_is_too_long_is_named_or_cut(encoder: LLM) -> None:
    long = "a " * 200
    with pytest.raises(
        ContextOverflow, match=r"text 1 has 202 tokens, but the context of bert is 160.*truncate"
    ):
        await encoder.embed(["the cat", long])
    cut = await encoder.embed([long], truncate=True)
    assert np.array_equal(cut, await encoder.embed(["a " * 158]))


@pytest.mark.parametrize(
    ("texts", "error", "says"),
    [
        ("the cat", TypeError, r"for one text: embed\(\[text\]\)"),
        (["the cat", 5], TypeError, "text 1 is '5', which is int, not str"),
        (["\udcff"], UnicodeEncodeError, "surrogates not allowed"),
        (None, TypeError, "not iterable"),
    ],
)
async def test_what_is_no_text_is_named(encoder: LLM, texts: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        await encoder.embed(texts)


async def test_an_encoder_cannot_generate_and_a_decoder_cannot_embed(
    runtime: Runtime, encoder: LLM, tiny_path: Path
) -> None:
    for ask in (encoder.generate, encoder.chat):
        with pytest.raises(UnsupportedModel, match=r"bert is an encoder: .* embed\(\), and cannot generate"):
            ask("hello")
    with pytest.raises(UnsupportedModel, match="is an encoder"):
        encoder.conversation()
    with pytest.raises(UnsupportedModel, match="is an encoder"):
        await encoder.score([1, 2, 3])
    async with await runtime.load_model(tiny_path) as decoder:
        with pytest.raises(UnsupportedModel, match=r"tiny generates text .* such as all-minilm-l6-v2"):
            await decoder.embed(["hello"])


async def test_a_closed_encoder_says_so(runtime: Runtime, bert_path: Path) -> None:
    llm = await runtime.load_model(bert_path)
    await llm.aclose()
    with pytest.raises(RuntimeClosed, match="load it again"):
        await llm.embed(["a"])


async def test_an_encoder_keeps_to_the_memory_budget(anyio_backend: object, bert_path: Path) -> None:
    async with open_runtime(threads=1, memory=1_500_000) as runtime:
        async with await runtime.load_model(bert_path) as llm:
            with pytest.raises(MemoryBudgetExceeded, match="a step of"):
                await llm.embed(TEXTS * 20)
            await llm.embed(["the cat"])
        gc.collect()
        assert runtime.memory.used == 0


@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"bert__block_count": None}, ModelFileError, "bert.block_count"),
        ({"bert__block_count": 3}, ModelFileError, "blk.2.attn_q.weight is missing"),
        ({"bert__attention__head_count": 0}, ModelFileError, "contradict each other"),
        ({"bert__attention__head_count": 3}, ModelFileError, "contradict each other"),
        ({"bert__attention__head_count": 16}, UnsupportedModel, "multiples of 32"),
        ({"bert__attention__causal": True}, UnsupportedModel, "causal"),
        ({"bert__context_length": 161}, ModelFileError, "position_embd.weight has shape"),
        ({"bert__pooling_type": 3}, UnsupportedModel, "pooling type 3"),
        ({"tokenizer__ggml__model": "gpt2"}, UnsupportedModel, "'gpt2' is not supported; 'bert' is"),
        ({"tokenizer__ggml__token_type": [1]}, ModelFileError, "1 token types"),
        ({"tokenizer__ggml__seperator_token_id": 5000}, ModelFileError, r"no token \[SEP\]"),
    ],
    ids=str,
)
async def test_a_file_that_contradicts_itself_is_refused(
    runtime: Runtime, changes: dict[str, Any], error: type[ModelError], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        await runtime.load_model(TinyBert().write(tmp_path / "m.gguf", **changes))
    assert runtime.memory.used == 0


async def test_a_context_that_the_model_does_not_have_is_refused(runtime: Runtime, bert_path: Path) -> None:
    with pytest.raises(ContextOverflow, match="2 to 160 tokens, 161 were asked for"):
        await runtime.load_model(bert_path, context=161)
    async with await runtime.load_model(bert_path, context=8) as llm:
        with pytest.raises(ContextOverflow, match="9 tokens"):
            await llm.embed(["a b c d e f g"])
