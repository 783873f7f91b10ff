"""How `smollm2-unrounded.json` was made: the default model's best tokens if no activation is ever rounded.

Usage: PYTHONPATH=tests/llm record_unrounded.py FILE. llama.cpp, and every device here, rounds activations to
int8 before a product with quantized weights. Where that alone decides between two tokens, whose side a
computation is on is chance. This is the model in NumPy in float64, fed with llama.cpp's tokens; only keys and
values are rounded, to float16, as they are everywhere.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tiny import Tiny

from coro_rt.kernels.formats import by_ggml_type
from coro_rt.llm.architecture import Hyperparameters
from coro_rt.llm.catalog import resolve
from coro_rt.llm.gguf_file import GGUFFile, open_gguf

MODEL = "smollm2-135m-instruct"


class Unrounded(Tiny):
    """A llama from a file, its weights as what they stand for."""

    def __init__(self, file: GGUFFile) -> None:
        sizes = Hyperparameters.from_gguf(file)
        self.layers, self.heads, self.kv_heads = sizes.layers, sizes.heads, sizes.kv_heads
        self.head_size, self.rope_base, self.rope_linear = sizes.head_size, sizes.rope_base, 0.0
        self.eps = sizes.norm_eps
        self.weights = {}
        for name, tensor in file.tensors.items():
            form = by_ggml_type(int(tensor.type))
            assert form is not None, tensor.type
            rows = (1, *tensor.shape)[-2:]
            self.weights[name] = form.dequantize(tensor.data, rows).reshape(tensor.shape)
        self.forms = dict.fromkeys(self.weights, "F32")


def best_of(model: Unrounded, case: dict[str, Any]) -> list[int]:
    logits = model.logits(case["prompt_tokens"] + case["tokens"][:-1])
    best: list[int] = np.argmax(logits[len(case["prompt_tokens"]) - 1 :], axis=1).tolist()
    return best


if __name__ == "__main__":
    greedy = json.loads((Path(__file__).parent / "smollm2-greedy.json").read_text())
    with open_gguf(resolve(MODEL)) as opened:
        model = Unrounded(opened)
    found = {"model": greedy["model"]["file"], "best": [best_of(model, case) for case in greedy["cases"]]}
    Path(sys.argv[1]).write_text(json.dumps(found) + "\n")
