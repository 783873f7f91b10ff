"""What people call: generate, chat, conversation, score, aclose; on every host, and cancelled halfway."""

import gc
import math
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import numpy as np
import pytest
from tiny import Tiny

from coro_rt import QoS, Runtime, open_runtime, qos
from coro_rt.devices.cpu import CpuDevice
from coro_rt.errors import (
    ContextOverflow,
    CoroRtError,
    DeviceError,
    MemoryBudgetExceeded,
    ModelFileError,
    ModelNotFound,
    RuntimeClosed,
    SamplingError,
    TemplateError,
)
from coro_rt.llm.model import LLM, load_model
from coro_rt.schedulers.entry import State

pytestmark = pytest.mark.anyio


@pytest.fixture
async def runtime(anyio_backend: object) -> AsyncIterator[Runtime]:
    async with open_runtime(threads=2) as runtime:
        yield runtime


async def ids(llm: LLM, prompt: str | list[int] = "hello", **options: object) -> list[int]:
    async with llm.generate(prompt, **{"max_tokens": 20, "ignore_eos": True} | options) as stream:
        return [token.id async for token in stream]


async def test_the_same_call_gives_the_same_tokens(llm: LLM) -> None:
    assert await ids(llm) == await ids(llm)
    drawn = await ids(llm, temperature=1.0, seed=1)
    assert drawn == await ids(llm, temperature=1.0, seed=1)
    assert drawn != await ids(llm, temperature=1.0, seed=2)


async def test_tokens_do_not_depend_on_company_or_threads(
    runtime: Runtime, llm: LLM, tiny_path: Path
) -> None:
    alone = await ids(llm, list(range(60)), max_tokens=60)

    async def disturb() -> None:
        while True:
            await ids(llm, list(range(100)), max_tokens=30)

    async with anyio.create_task_group() as group:
        with qos(QoS.BACKGROUND):
            for _ in range(4):
                group.start_soon(disturb)
        for _ in range(3):
            await anyio.sleep(0.005)
            assert await ids(llm, list(range(60)), max_tokens=60) == alone
        group.cancel_scope.cancel()
    async with open_runtime(threads=1) as other, await load_model(other, tiny_path) as single:
        assert await ids(single, list(range(60)), max_tokens=60) == alone


async def test_tokens_do_not_depend_on_which_of_the_cpu_devices_runs_them(tiny_path: Path) -> None:
    devices = [CpuDevice(name=f"cpu-{at}", threads=threads) for at, threads in enumerate((2, 1, 3))]
    async with open_runtime(devices=devices) as runtime, await load_model(runtime, tiny_path) as llm:
        alone = await ids(llm)
        assert await ids(llm, device="cpu-1") == alone
        for name in "cpu-2", "gpu":  # its gang is larger than the model's buffers; there is none
            with pytest.raises(DeviceError, match="with at most 2 threads"):
                llm.generate("hello", device=name)


async def test_a_job_waits_for_room_in_the_buffer_that_was_asked_for(runtime: Runtime, llm: LLM) -> None:
    async with llm.generate("hello", max_tokens=20, ignore_eos=True, buffer=21) as stream:
        await anext(stream)
        assert stream.job is not None
        with anyio.fail_after(300):
            while stream.job.state is not State.DONE:  # nobody reads meanwhile  # noqa: ASYNC110
                await anyio.sleep(0.001)
        assert len([token async for token in stream]) == 19


async def test_keys_and_values_in_int8_take_half_the_memory_and_change_little(
    runtime: Runtime, llm: LLM, tiny_path: Path
) -> None:
    prompt = list(range(200))
    async with await load_model(runtime, tiny_path, kv_bits=8) as small:
        used = []
        for one in (llm, small):
            before = runtime.memory.used
            async with one.generate([1], max_tokens=200, ignore_eos=True) as stream:
                async for _ in stream:
                    used.append(runtime.memory.used - before)
                    break
        assert used[1] < 0.6 * used[0] + 20_000  # the step's buffers are the same
        off = np.abs(await llm.score(prompt) - await small.score(prompt))
        assert 0 < off.mean() < 0.05
    with pytest.raises(ValueError, match="16 bits or in 8, not in 4"):
        await load_model(runtime, tiny_path, kv_bits=4)


async def test_usage_and_finish_reason_say_how_it_went(llm: LLM) -> None:
    async with llm.generate("hello hello", max_tokens=5, ignore_eos=True) as stream:
        tokens = [token async for token in stream]
    assert (stream.finish_reason, len(tokens)) == ("length", 5)
    assert stream.usage.prompt_tokens == len(llm.tokenizer.encode("hello hello"))
    assert stream.usage.completion_tokens == 5
    assert all(
        token.logprob <= 0 and isinstance(token.id, int) and str(token) == token.text for token in tokens
    )


async def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(llm: LLM) -> None:
    async with llm.generate("hello", max_tokens=40, ignore_eos=True) as stream:
        whole = "".join([token.text async for token in stream])
    assert len(whole) > 10
    stop = whole[5:8]
    async with llm.generate("hello", max_tokens=40, ignore_eos=True, stop=stop) as stream:
        cut = "".join([token.text async for token in stream])
    assert cut == whole[: whole.index(stop)]
    assert stream.finish_reason == "stop"


async def test_an_end_token_ends_the_answer(runtime: Runtime, tmp_path: Path) -> None:
    tiny = Tiny(own_head=True)
    large = 50 * np.abs(tiny.weights["output.weight"]).max(0)
    tiny.weights["output.weight"][2] = large  # <|im_end|> wins whenever its logit is positive
    async with await load_model(runtime, tiny.write(tmp_path / "m.gguf")) as llm:
        seen = set()
        for prompt in ("hello", "a", "b", "c", "zz"):
            async with llm.generate(prompt, max_tokens=50) as stream:
                # the end itself comes only where it carries the rest of the text
                tokens = [token async for token in stream if token.id not in llm.tokenizer.eos_ids]
            seen.add(stream.finish_reason)
            if stream.finish_reason == "stop":
                assert stream.usage.completion_tokens == len(tokens) < 50
        assert "stop" in seen


async def test_logprobs_and_scores_are_the_models_own(llm: LLM) -> None:
    prompt = list(range(3, 80))
    async with llm.generate(prompt, max_tokens=10, temperature=1.5, seed=3, ignore_eos=True) as stream:
        tokens = [token async for token in stream]
    scores = await llm.score(prompt + [token.id for token in tokens])
    assert scores[len(prompt) - 1 :] == pytest.approx([token.logprob for token in tokens], abs=1e-5)


async def test_the_context_is_used_to_its_last_position_and_not_beyond(llm: LLM) -> None:
    async with llm.generate(list(range(200)), max_tokens=1000, ignore_eos=True) as stream:
        assert len([token async for token in stream]) == llm.context - 200 + 1
    assert stream.finish_reason == "length"
    assert len(await ids(llm, [1] * llm.context)) == 1
    with pytest.raises(ContextOverflow, match=f"{llm.context + 1} tokens, but the context"):
        llm.generate([1] * (llm.context + 1))


async def test_a_conversation_reads_only_what_is_new(runtime: Runtime, llm: LLM) -> None:
    with llm.conversation(system="hello") as conversation:
        for turn, question in enumerate(("hello", "hello hello", "hell")):
            messages = [*conversation.messages, {"role": "user", "content": question}]
            async with conversation.ask(question, max_tokens=7, ignore_eos=True) as stream:
                text = "".join([token.text async for token in stream])
            assert (stream.usage.reused_tokens > 0) == (turn > 0)
            assert conversation.messages == [*messages, {"role": "assistant", "content": text}]
            async with llm.chat(messages, max_tokens=7, ignore_eos=True) as fresh:
                assert "".join([token.text async for token in fresh]) == text
        assert runtime.memory.used > 0
    with pytest.raises(RuntimeClosed, match="conversation has been closed"):
        conversation.ask("hello")


async def test_a_conversation_answers_one_question_at_a_time(llm: LLM) -> None:
    with llm.conversation() as conversation:
        async with conversation.ask("hello", max_tokens=100, ignore_eos=True) as first:
            await first.__anext__()
            with pytest.raises(CoroRtError, match="answering a question already"):
                async with conversation.ask("hello") as second:
                    await second.__anext__()


async def test_a_conversation_closed_while_it_answers_gives_its_memory_back_at_the_end(llm: LLM) -> None:
    conversation = llm.conversation()
    async with conversation.ask("hello", max_tokens=50, ignore_eos=True) as stream:
        await stream.__anext__()
        conversation.close()


async def test_a_cancelled_answer_stays_in_the_conversation_as_far_as_it_came(llm: LLM) -> None:
    with llm.conversation() as conversation:
        async with conversation.ask("hello", max_tokens=100, ignore_eos=True) as stream:
            async for _ in stream:
                break
        assert [message["role"] for message in conversation.messages] == ["user", "assistant"]
        async with conversation.ask("hello", max_tokens=3, ignore_eos=True) as stream:
            assert len([token async for token in stream]) == 3
        assert stream.usage.reused_tokens > 0


@pytest.mark.parametrize("prompt_tokens", [1, 250])
async def test_cancelled_in_the_middle_it_gives_everything_back(llm: LLM, prompt_tokens: int) -> None:
    for after in np.random.default_rng(0).uniform(0, 0.02, 20):
        with anyio.move_on_after(after):
            async with llm.generate([5] * prompt_tokens, max_tokens=200, ignore_eos=True) as stream:
                async for _ in stream:
                    pass
        with anyio.move_on_after(after):
            await llm.score([5] * 200)


async def test_a_break_ends_the_job(runtime: Runtime, llm: LLM) -> None:
    async with llm.generate("hello", max_tokens=250, ignore_eos=True) as stream:
        async for _ in stream:
            break
    assert stream.finish_reason == "cancelled"
    stats = runtime.stats()
    assert stats.jobs_ready + stats.jobs_running + stats.jobs_waiting == 0


async def test_closing_the_model_ends_its_jobs(runtime: Runtime, tiny_path: Path) -> None:
    llm = await runtime.load_model(tiny_path)
    stream = llm.generate("hello", max_tokens=250, ignore_eos=True)
    await stream.__anext__()
    await llm.aclose()
    await llm.aclose()
    assert runtime.memory.used == 0
    with pytest.raises(RuntimeClosed, match="has been closed"):
        llm.generate("hello")
    await stream.aclose()
    assert stream.finish_reason == "cancelled"


async def test_a_generation_that_has_not_begun_when_the_model_is_closed_never_does(
    runtime: Runtime, tiny_path: Path
) -> None:
    llm = await runtime.load_model(tiny_path)
    first, second = (llm.generate("hello", max_tokens=250, ignore_eos=True) for _ in range(2))
    await first.__anext__()
    with qos(QoS.BACKGROUND):
        await second.__aenter__()  # asked for, and waiting behind the first
    await llm.aclose()
    with pytest.raises(RuntimeClosed, match="has been closed"):
        await second.__anext__()
    await first.aclose()
    await second.aclose()
    assert runtime.memory.used == 0


async def test_closing_the_runtime_ends_a_models_jobs(anyio_backend: object, tiny_path: Path) -> None:
    async with open_runtime() as runtime:
        llm = await runtime.load_model(tiny_path)
        stream = llm.generate("hello", max_tokens=250, ignore_eos=True)
        await stream.__anext__()
    with pytest.raises(RuntimeClosed):
        await llm.generate("hello").__anext__()
    await llm.aclose()
    await stream.aclose()
    assert runtime.memory.used == 0


async def test_a_model_is_closed_with_its_runtime_at_the_latest(
    anyio_backend: object, tiny_path: Path
) -> None:
    async with open_runtime() as runtime:
        llm = await runtime.load_model(tiny_path)
    with pytest.raises(RuntimeClosed):
        await ids(llm)
    del llm  # and no warning
    gc.collect()
    assert runtime.memory.used == 0


async def test_a_forgotten_model_gives_its_memory_back(runtime: Runtime, tiny_path: Path) -> None:
    llm = await runtime.load_model(tiny_path)
    assert runtime.memory.used > 0
    with pytest.warns(ResourceWarning, match="was not closed"):
        del llm
    assert runtime.memory.used == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"seed": -1}, "seed"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"max_tokens": 1.5}, "max_tokens is 1.5"),
        ({"stop": [""]}, "stop string"),
        ({"stop": [3]}, "stop string"),
    ],
    ids=str,
)
async def test_bad_sampling_is_refused_at_once(llm: LLM, options: dict[str, object], says: str) -> None:
    with pytest.raises(SamplingError, match=says):
        llm.generate("hello", **options)


@pytest.mark.parametrize(
    ("prompt", "error", "says"),
    [
        ("", ValueError, "prompt is empty"),
        ([], ValueError, "prompt is empty"),
        ([1, -1], ValueError, "token 1 of the prompt is -1"),
        ([10**6], ValueError, "ids go from 0 to"),
        ([1.0], TypeError, "not an integer"),
        ([True], TypeError, "not an integer"),
        (b"hello", TypeError, "not bytes"),
    ],
    ids=str,
)
async def test_bad_prompts_are_refused_at_once(
    llm: LLM, prompt: object, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        llm.generate(prompt)


async def test_scoring_needs_two_tokens(llm: LLM) -> None:
    with pytest.raises(ValueError, match="at least 2 tokens, not 1"):
        await llm.score([1])


async def test_user_text_cannot_forge_a_turn(llm: LLM) -> None:
    async with llm.chat("<|im_end|>", max_tokens=1) as forged, llm.chat("hell", max_tokens=1) as plain:
        await forged.__anext__()
        await plain.__anext__()
    assert forged.usage.prompt_tokens > plain.usage.prompt_tokens + 5  # spelled out, not one control token


async def test_without_a_template_there_is_no_chat(runtime: Runtime, tmp_path: Path) -> None:
    async with await load_model(runtime, Tiny().write(tmp_path / "m.gguf", template=None)) as llm:
        with pytest.raises(TemplateError, match="no chat template"):
            llm.chat("hello")


async def test_a_broken_template_spoils_chat_and_nothing_else(runtime: Runtime, tmp_path: Path) -> None:
    path = Tiny().write(tmp_path / "m.gguf", template="{% for %}")
    async with await load_model(runtime, path) as llm:
        assert len(await ids(llm)) == 20
        with pytest.raises(TemplateError, match="cannot chat"):
            llm.chat("hello")


async def test_bad_models_are_refused(runtime: Runtime, tmp_path: Path, tiny_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        await runtime.load_model("no-such-model")
    with pytest.raises(ModelNotFound):
        await runtime.load_model(tmp_path / "missing.gguf")
    (tmp_path / "text.gguf").write_text("once upon a time")
    with pytest.raises(ModelFileError):
        await runtime.load_model(tmp_path / "text.gguf")
    with pytest.raises(ContextOverflow, match="context is 256 tokens, 300 were asked for"):
        await runtime.load_model(tiny_path, context=300)
    with pytest.raises(ValueError, match="at least 1"):
        await runtime.load_model(tiny_path, context=0)
    assert runtime.memory.used == 0


async def test_a_model_needs_a_device_that_models_run_on(anyio_backend: object, tiny_path: Path) -> None:
    async with open_runtime(devices=["sim"]) as runtime:
        with pytest.raises(DeviceError, match="models run on the devices 'cpu' and 'gpu', and open are: sim"):
            await runtime.load_model(tiny_path)


async def test_what_does_not_fit_the_budget_is_refused_and_the_rest_goes_on(
    anyio_backend: object, tiny_path: Path
) -> None:
    async with open_runtime(memory=10_000) as small:
        with pytest.raises(MemoryBudgetExceeded, match=r"the model tiny.gguf needs .* of the budget of"):
            await small.load_model(tiny_path)
        assert small.memory.used == 0
    async with open_runtime() as runtime, await load_model(runtime, tiny_path):
        weights = runtime.memory.used
    async with open_runtime(memory=weights + 120_000) as runtime, await load_model(runtime, tiny_path) as llm:
        with pytest.raises(MemoryBudgetExceeded, match="tiny with a sequence of 219 tokens needs"):
            llm.generate(list(range(200)), max_tokens=20)
        assert runtime.memory.used == weights
        assert len(await ids(llm, "hello")) == 20
        with pytest.raises(MemoryBudgetExceeded, match="a step of 32 tokens after"):
            await llm.score([1] * 200)
        assert runtime.memory.used == weights
