"""Chips and models by name: one table each, and a clear error for a name that is in neither."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.soc.chip import Chip
from coro_rt.schedulers.soc.language_model import LanguageModel
from coro_rt.schedulers.soc.ryzen_ai_7_350 import RYZEN_AI_7_350
from coro_rt.schedulers.soc.snapdragon_8_elite import SNAPDRAGON_8_ELITE
from coro_rt.schedulers.soc.snapdragon_8_gen_3 import SNAPDRAGON_8_GEN_3

_T = TypeVar("_T")

CHIPS: Mapping[str, Chip] = MappingProxyType(
    {chip.name: chip for chip in (SNAPDRAGON_8_GEN_3, SNAPDRAGON_8_ELITE, RYZEN_AI_7_350)}
)

# Shapes as their makers publish them (config.json): weights, table, layers, heads and key heads times size.
_MODELS = (
    LanguageModel("smollm2-135m", 134.5e6, 49152 * 576, 30, 576, 192),
    LanguageModel("qwen3-0.6b", 596e6, 151936 * 1024, 28, 2048, 1024),
    LanguageModel("llama-3.2-1b", 1.236e9, 128256 * 2048, 16, 2048, 512),
    LanguageModel("internlm2-1.8b", 1.889e9, 92544 * 2048, 24, 2048, 1024, tied=False),
    LanguageModel("bitnet-2b", 2.413e9, 128256 * 2560, 30, 2560, 640),
    LanguageModel("qwen2.5-3b", 3.086e9, 151936 * 2048, 36, 2048, 256),
    LanguageModel("llama-3.2-3b", 3.213e9, 128256 * 3072, 28, 3072, 1024),
    LanguageModel("llama-2-7b", 6.738e9, 32000 * 4096, 32, 4096, 4096, tied=False),
    LanguageModel("llama-3.1-8b", 8.030e9, 128256 * 4096, 32, 4096, 1024, tied=False),
    LanguageModel("qwen2.5-14b", 14.77e9, 152064 * 5120, 48, 5120, 1024, tied=False),
)
MODELS: Mapping[str, LanguageModel] = MappingProxyType({model.name: model for model in _MODELS})


def get_chip(name: str) -> Chip:
    """A chip by its name. Raises SchedulerError with those that there are."""
    return _get(CHIPS, name, "chip")


def get_model(name: str) -> LanguageModel:
    """A model's shape by its name, 4-bit weights. Raises SchedulerError with those that there are."""
    return _get(MODELS, name, "model")


def _get(table: Mapping[str, _T], name: str, what: str) -> _T:
    found = table.get(name)
    if found is None:
        raise SchedulerError(f"no {what} {name!r}; known are {', '.join(table)}")
    return found
