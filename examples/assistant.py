"""A small assistant: an urgent chat beside background summaries, in one task group.

coro-rt pull smollm2-135m-instruct
python examples/assistant.py
"""

import anyio

import coro_rt
from coro_rt import QoS, qos
from coro_rt.llm.model import LLM

INBOX = {
    "Mira": """The plumber came at nine and the tap in the kitchen no longer drips. He wants 80 in cash, which
I have paid. The bathroom needs a new valve, and he will come again on Thursday between two and four.""",
    "Jonas": """The train at 14:05 is cancelled, so I take the next one and arrive at half past six. Please do
not wait with dinner, but keep me some soup. I have the tickets for Saturday.""",
    "Library": """Two of the books that you have borrowed are due on Monday. One of them, a history of clocks,
has been reserved by another reader and cannot be kept for longer.""",
}


async def summarise(llm: LLM, sender: str, message: str, summaries: dict[str, str]) -> None:
    prompt = f"Summarise this message in one short sentence.\n\n{message}"
    async with llm.chat(prompt, max_tokens=40) as summary:
        summaries[sender] = "".join([token.text async for token in summary])


async def answer(llm: LLM, question: str) -> None:
    """Urgent, and worthless after five seconds: the deadline is a scheduling deadline as well."""
    print(question)
    with qos(QoS.USER_INTERACTIVE), anyio.move_on_after(5) as scope:
        async with llm.chat(question, max_tokens=60) as stream:
            async for token in stream:
                print(token, end="", flush=True)
    print(" ... (no time left)" if scope.cancelled_caught else "")


async def main() -> None:
    summaries: dict[str, str] = {}
    async with (
        coro_rt.open_runtime() as runtime,
        await runtime.load_model("smollm2-135m-instruct") as llm,
        anyio.create_task_group() as group,
    ):
        with qos(QoS.BACKGROUND):  # inherited by the tasks that are started here
            for sender, message in INBOX.items():
                group.start_soon(summarise, llm, sender, message, summaries)
        await answer(llm, "Give me three ideas for a quick supper.")
    for sender, summary in summaries.items():
        print(f"\n{sender}: {summary}")


if __name__ == "__main__":
    anyio.run(main, backend="trio")
