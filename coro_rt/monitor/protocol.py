"""What is spoken: a line is a JSON object; each request gets one answer; nothing comes unasked.

    {"coro_rt": 1, "get": "hello"}                   -> {"coro_rt": 1, "pid": ..., "program": ...}
    {"coro_rt": 1, "get": "snapshot", "limit": 64}   -> the same and "snapshot": Snapshot.as_json()
    {"coro_rt": 1, "get": "explain", "job": "name"}  -> the same and "explanations": [Explanation.as_json()]

The next request comes after the answer to the one before. What cannot be answered gets
{"coro_rt": 1, "error": "why"}, and the connection is closed. `coro_rt` is the version of all this.
"""

from __future__ import annotations

import json
from typing import Any

VERSION = 1
MAX_REQUEST = 4096  # bytes of a line
MAX_ANSWER = 16 << 20
MAX_LIMIT = 1000


def encode(message: dict[str, Any]) -> bytes:
    """A message as a line."""
    return json.dumps({"coro_rt": VERSION, **message}, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """A line's message. Raises ValueError, which says what is wrong with it."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("this line is not JSON") from None
    if not isinstance(message, dict):
        raise ValueError("a message is a JSON object")
    if message.get("coro_rt") != VERSION:
        raise ValueError(f"here version {VERSION} is spoken, not {message.get('coro_rt')!r}")
    return message
