"""The machine's limits, measured again and again while a benchmark runs; the best counts.

A limit that is taken once, at a bad moment of a shared machine, would be beaten by what it limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coro_rt.kernels import formats, roofline
from coro_rt.llm.gguf_file import open_gguf


class Limits:
    """The best that was seen with so many threads: `bandwidth` in bytes, `products` in int8 multiply-adds a
    second.
    """

    def __init__(self, threads: int, *, nbytes: int = 512 << 20) -> None:
        self.threads = threads
        self._nbytes = nbytes
        self.bandwidth = 0.0
        self.products = 0.0

    def look(self) -> None:
        """Measure once more, for about half a second."""
        seen = roofline.read_bandwidth(self.threads, nbytes=self._nbytes)
        self.bandwidth = max(self.bandwidth, seen)
        self.products = max(self.products, roofline.int8_peak(self.threads))


@dataclass(frozen=True)
class Weights:
    """What one token takes of a file's matrices. Norms and biases are not counted, nor keys and values.

    `nbytes` that decoding it reads; multiply-adds for it without the output head (`body`: a prompt needs the
    head for its last token alone) and with it (`products`); the `format` of most bytes.
    """

    nbytes: int
    body: int
    products: int
    format: str

    @classmethod
    def of(cls, path: Path) -> Weights:
        """All matrices but the embedding, of which a token takes one row, unless it is the head as well."""
        nbytes: dict[str, int] = {}
        body = products = 0
        with open_gguf(path) as file:
            head = "output.weight" if "output.weight" in file.tensors else "token_embd.weight"
            for name, tensor in file.tensors.items():
                form = formats.by_ggml_type(int(tensor.type))
                if form is None or len(tensor.shape) != 2 or (name == "token_embd.weight" != head):
                    continue
                rows, columns = tensor.shape
                nbytes[form.name] = nbytes.get(form.name, 0) + rows * form.row_bytes(columns)
                products += rows * columns
                body += rows * columns if name != head else 0
        return cls(sum(nbytes.values()), body, products, max(nbytes, key=lambda name: nbytes[name]))

    def decoding(self, limits: Limits, sequences: int = 1) -> float:
        """Tokens per second at most, of so many sequences in one step."""
        return min(sequences * limits.bandwidth / self.nbytes, limits.products / self.products)

    def reading(self, limits: Limits) -> float:
        """Tokens of a prompt per second at most."""
        return limits.products / self.body
