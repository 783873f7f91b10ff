"""Chips as models: how long language models take on them, and how many joules. Pure, like all of the room."""

from coro_rt.schedulers.soc.chip import Chip, Frequency, Heat, Memory, Processor, frequencies
from coro_rt.schedulers.soc.language_model import LanguageModel, Load
from coro_rt.schedulers.soc.registry import CHIPS, MODELS, get_chip, get_model
from coro_rt.schedulers.soc.silicon import Silicon

__all__ = [
    "CHIPS",
    "MODELS",
    "Chip",
    "Frequency",
    "Heat",
    "LanguageModel",
    "Load",
    "Memory",
    "Processor",
    "Silicon",
    "frequencies",
    "get_chip",
    "get_model",
]
