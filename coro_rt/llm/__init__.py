"""Language models: files, tokenizers, templates, sampling, and the model's step.

What applications hold is here by name, imported at the first use: the rest of the package is loaded with it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coro_rt.llm.chooser import Chooser, Place, Wanted
    from coro_rt.llm.conversation import Conversation
    from coro_rt.llm.generate import Token, Usage
    from coro_rt.llm.model import LLM
    from coro_rt.llm.places import Places

__all__ = ["LLM", "Chooser", "Conversation", "Place", "Places", "Token", "Usage", "Wanted"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    where = {
        "LLM": "model",
        "Conversation": "conversation",
        "Places": "places",
        "Token": "generate",
        "Usage": "generate",
    }
    return getattr(import_module(f"{__name__}.{where.get(name, 'chooser')}"), name)
