"""Language models: files, tokenizers, templates, sampling, and the model's step.

What applications hold is here by name, imported at the first use: the rest of the package is loaded with it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coro_rt.llm.conversation import Conversation
    from coro_rt.llm.generate import Token, Usage
    from coro_rt.llm.model import LLM

__all__ = ["LLM", "Conversation", "Token", "Usage"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    where = {"LLM": "model", "Conversation": "conversation"}.get(name, "generate")
    return getattr(import_module(f"{__name__}.{where}"), name)
