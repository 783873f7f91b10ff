"""`coro-rt quantize`: a smaller file, a table of errors, and nothing left of what was interrupted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from coro_rt.llm.gguf_file import open_gguf


def write(path: Path, *, rows: int = 64, quantized: bool = False) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    values = np.random.default_rng(0).standard_normal((rows, 96), dtype=np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0 if quantized else None
    stored = gguf.quantize(values, kind) if quantized else values
    writer.add_tensor("blk.0.attn_q.weight", stored, raw_dtype=kind)
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(96, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_table_and_the_figures_say_what_became_of_each_tensor(coro_rt_cli, tmp_path):
    source, target, figures = write(tmp_path / "a.gguf"), tmp_path / "b.gguf", tmp_path / "b.json"
    ended = coro_rt_cli("quantize", str(source), str(target), "--type", "q4_k", "--json", str(figures))
    assert (ended.code, ended.err) == (0, "")
    assert "Q4_1*" in ended.out
    assert "*: rows of 96 are no multiple of 256" in ended.out
    assert "1 of 2 tensors are exact" in ended.out
    written = json.loads(figures.read_text())
    assert {key: written[key] for key in ("source", "target", "type", "target_bytes")} == {
        "source": str(source), "target": str(target), "type": "q4_k", "target_bytes": target.stat().st_size,
    }  # fmt: skip
    first, second = written["tensors"]
    assert (first["name"], first["shape"], first["target"]) == ("blk.0.attn_q.weight", [64, 96], "Q4_1")
    assert 0 < first["rms_error"] < first["max_error"] < 0.5
    assert (second["target"], second["rms_error"], second["note"]) == ("F32", 0, "a vector")
    with open_gguf(target) as file:
        assert file.tensors["blk.0.attn_q.weight"].type.name == "Q4_1"


WRONG = {
    "no type": ([], 2, "--type"),
    "unknown type": (["--type", "int4"], 2, "'q4_k'"),
    "quantized already": (["--type", "q4_0"], 1, "quantized already (Q8_0)"),
}


@pytest.mark.parametrize(("arguments", "code", "part"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_done_is_one_line(coro_rt_cli, tmp_path, arguments, code, part):
    source = write(tmp_path / "a.gguf", quantized=True)
    ended = coro_rt_cli("quantize", str(source), str(tmp_path / "b.gguf"), *arguments)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert part in ended.err
    assert list(tmp_path.iterdir()) == [source]


def test_a_missing_source_or_folder_is_one_line(coro_rt_cli, tmp_path):
    ended = coro_rt_cli("quantize", "missing.gguf", str(tmp_path / "b.gguf"), "--type", "q8_0")
    assert ended.code == 2
    assert "missing.gguf" in ended.err
    source = write(tmp_path / "a.gguf")
    ended = coro_rt_cli("quantize", str(source), str(tmp_path / "no" / "b.gguf"), "--type", "q8_0")
    assert ended.code == 1
    assert "in a folder that is not there" in ended.err


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another thing there")
def test_ctrl_c_leaves_nothing_behind(child, tmp_path):
    source, folder = write(tmp_path / "a.gguf", rows=400_000), tmp_path / "out"
    folder.mkdir()
    arguments = "quantize", str(source), str(folder / "b.gguf"), "--type", "q5_1"
    process = child("-m", "coro_rt", *arguments, stdout=subprocess.DEVNULL)
    while not os.listdir(folder):
        assert process.poll() is None, process.stderr.read()
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err.strip()) == (130, "")
    assert list(folder.iterdir()) == []
