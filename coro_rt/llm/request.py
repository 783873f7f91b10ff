"""What was asked of a model, checked: prompts become token ids here, and every bad input gets its error
before a job is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from coro_rt.errors import ContextOverflow, SamplingError, TemplateError

from .sampling import SamplingParams

if TYPE_CHECKING:
    from .decoder import Model

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate: prompt ids, how to choose tokens, and when to stop."""

    prompt: list[int]
    max_tokens: int
    sampling: SamplingParams
    stop: tuple[str, ...]
    ignore_eos: bool


def make_request(
    model: Model, prompt: list[int], max_tokens: int, sampling: SamplingParams, stop: str | Tokens[str],
    *, ignore_eos: bool,
) -> Request:  # fmt: skip
    """Raises SamplingError and ContextOverflow. `max_tokens` is cut to what the context has room for."""
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, Integral) or max_tokens < 1:
        raise SamplingError(f"max_tokens is {max_tokens!r}, but it must be an integer from 1 on")
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    for one in stops:
        if not isinstance(one, str) or not one:
            raise SamplingError(f"a stop string is {one!r}, but it must be a text that is not empty")
    if len(prompt) > model.context:
        raise ContextOverflow(
            f"the prompt has {len(prompt)} tokens, but the context of {model.name} is {model.context}: "
            "shorten it, or load the model with a larger context"
        )
    # the last token that is generated is not put into the cache, hence one more than what is left
    room = model.context - len(prompt) + 1
    return Request(prompt, min(int(max_tokens), room), sampling, stops, ignore_eos)


def prompt_ids(model: Model, prompt: str | Tokens[int]) -> list[int]:
    """The ids of a text (control tokens' names in it are plain text), or checked ids. Raises ValueError if
    empty.
    """
    if not isinstance(prompt, str):
        return checked_ids(model, prompt)
    tokenizer = model.tokenizer
    ids = tokenizer.encode(prompt)
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        ids.insert(0, tokenizer.bos_id)
    if not ids:
        raise ValueError("the prompt is empty: a model goes on from at least one token")
    return ids


def chat_ids(model: Model, messages: str | Tokens[Message]) -> list[int]:
    """The ids of a chat up to where the assistant speaks; only the template's own text may hold control
    tokens.
    """
    if isinstance(model.template, TemplateError):
        raise TemplateError(f"{model.name} cannot chat: {model.template}")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    ids = model.tokenizer.encode_parts(
        model.template.render_parts(list(messages), add_generation_prompt=True)
    )
    if not ids:
        raise TemplateError(
            f"the chat template of {model.name} made an empty prompt of {len(messages)} messages"
        )
    return ids


def checked_ids(model: Model, ids: Tokens[int]) -> list[int]:
    """Token ids as ints. Raises TypeError and ValueError, naming the first that is none."""
    if isinstance(ids, bytes):
        raise TypeError("a prompt is a str or a sequence of token ids, not bytes: decode it first")
    listed = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    for at, token in enumerate(listed):
        if isinstance(token, bool) or not isinstance(token, Integral):
            raise TypeError(f"token {at} of the prompt is {token!r}, which is not an integer")
        if not 0 <= token < model.sizes.vocabulary:
            raise ValueError(
                f"token {at} of the prompt is {token}, but ids go from 0 to {model.sizes.vocabulary - 1}"
            )
    if not listed:
        raise ValueError("the prompt is empty: a model goes on from at least one token")
    return [int(token) for token in listed]
