"""A JSON file of settings, with typed access to its keys."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coro_rt.errors import ModelFileError, ModelNotFound

__all__ = ["SettingsFile"]

MAX_BYTES = 128 << 20
"""A tokenizer of 262,144 tokens takes some 30 MB."""


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """The object in the file at `path`."""

    path: Path
    values: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> SettingsFile:
        """Raises `ModelNotFound` if there is no such file, `ModelFileError` if it holds no JSON object."""
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ModelFileError(
                    f"{path} is larger than the {MAX_BYTES} bytes that are read of such a file"
                )
            values = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise ModelNotFound(f"there is no file {path}, which says what the model is") from None
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise ModelFileError(f"{path} is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ModelFileError(f"{path} holds {type(values).__name__}, not an object")
        return cls(path, values)

    def get(self, key: str, kind: type | tuple[type, ...], default: Any) -> Any:
        """The value, `default` if it is absent or null. Raises `ModelFileError` if it has another type."""
        value = self.values.get(key)
        if value is None:
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(value) not in kinds or (int in kinds and type(value) is int and not 0 <= value < 2**32):
            raise ModelFileError(f"{self.path}: {key!r} is {str(value)[:40]!r}, which cannot be right")
        return value

    def require(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """The value. Raises `ModelFileError` if it is absent or has another type."""
        value = self.get(key, kind, None)
        if value is None:
            raise ModelFileError(f"{self.path}: the key {key!r} is missing")
        return value
