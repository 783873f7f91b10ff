"""How long a model takes for a token, learned while it runs: what `predicted_seconds_left` is made of."""


class Pace:
    """Device seconds per token, read (a prompt) and written. Zero until the first step has been seen."""

    __slots__ = ("read_s", "write_s")

    _WEIGHT = 0.1  # of the newest step in the running mean

    def __init__(self) -> None:
        self.read_s = 0.0
        self.write_s = 0.0

    def seconds(self, to_read: int, to_write: int) -> float:
        """The device seconds that reading and then writing so many tokens will take, as far as is known."""
        return to_read * self.read_s + to_write * self.write_s

    def learn(self, tokens: int, seconds: float) -> None:
        """A step of `tokens` tokens took `seconds`. A lone token is one written."""
        each = seconds / tokens
        if tokens == 1:
            self.write_s += (each - self.write_s) * (self._WEIGHT if self.write_s else 1.0)
        else:
            self.read_s += (each - self.read_s) * (self._WEIGHT if self.read_s else 1.0)
