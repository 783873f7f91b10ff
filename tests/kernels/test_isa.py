"""Every instruction set that this CPU has passes every case; the ones it lacks are looked at as code."""

import os
import subprocess
import sys

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from coro_rt.kernels import dot, isa

EVERY_CASE = """
from coro_rt.kernels import isa
from coro_rt.kernels.cases import cases
import hashlib
print(isa.choose())
digest = hashlib.sha256()
for case in cases():
    worst = case.worst()
    if not worst <= case.bound:
        raise SystemExit(f"{case.name} on {isa.choose()}: off by {worst}, allowed {case.bound}")
    if "matmul Q" in case.name:
        digest.update(case.implementation(None).tobytes())
print(digest.hexdigest())
"""


def run(name: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", EVERY_CASE],
        env=os.environ | {"CORO_RT_ISA": name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def best() -> list[str]:
    return run("")


@pytest.mark.parametrize("name", isa.of_host())
def test_every_case_passes_and_quantized_products_are_the_same_to_the_bit(name: str, best: list[str]) -> None:
    assert run(name) == [name, best[1]]


def test_an_instruction_set_that_is_not_here_is_an_error_that_names_those_that_are() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERY_CASE],
        env=os.environ | {"CORO_RT_ISA": "mmx"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "CORO_RT_ISA is 'mmx', but this CPU runs" in done.stderr
    assert "portable" in done.stderr


@pytest.mark.parametrize(
    ("features", "machine", "expected"),
    [
        ({"avx512vnni", "avx512bw", "avx512vl", "avx2", "fma", "f16c"}, "x86_64", "avx512-vnni"),
        ({"avx2", "fma", "f16c", "avxvnni"}, "AMD64", "avx-vnni"),
        ({"avx2", "fma", "f16c"}, "x86_64", "avx2"),
        ({"sse4.2"}, "x86_64", "portable"),
        ({"neon", "dotprod"}, "arm64", "neon-dotprod"),
        ({"neon"}, "aarch64", "portable"),
        (set(), "riscv64", "portable"),
    ],
)
def test_the_best_that_the_cpu_has_is_taken(features: set[str], machine: str, expected: str) -> None:
    assert isa.best_of(frozenset(features), machine) == expected


def assembly(name: str, triple: str, features: str, *, small: bool) -> str:
    """What LLVM makes of the dot product for another processor."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = ir.Module()
    module.triple = triple
    wide, narrow = ir.VectorType(ir.IntType(32), 16), ir.VectorType(ir.IntType(8), 64)
    kind = ir.FunctionType(ir.VoidType(), [wide.as_pointer(), narrow.as_pointer(), ir.IntType(32)])
    function = ir.Function(module, kind, "dot")
    builder = ir.IRBuilder(function.append_basic_block())
    sums, unsigned, four = function.args
    result = dot.emit(name, builder, builder.load(sums), builder.load(unsigned), four, small=small)
    builder.store(result, sums)
    builder.ret_void()
    machine = llvm.Target.from_triple(triple).create_target_machine(features=features)
    return str(machine.emit_assembly(llvm.parse_assembly(str(module))))


@pytest.mark.parametrize("small", [True, False])
def test_on_arm_the_dot_product_is_the_instruction_for_it(small: bool) -> None:
    code = assembly("neon-dotprod", "aarch64-unknown-linux-gnu", "+neon,+dotprod", small=small)
    assert code.count("sdot") == (4 if small else 12)


@pytest.mark.parametrize(
    ("name", "features", "instruction", "count"),
    [
        ("avx512-vnni", "+avx512f,+avx512bw,+avx512vl,+avx512vnni", "vpdpbusd", 1),
        ("avx-vnni", "+avx2,+avxvnni", "vpdpbusd", 2),
        ("avx2", "+avx2", "vpmaddubsw", 2),
    ],
)
def test_on_x86_the_dot_product_is_the_instruction_for_it(
    name: str, features: str, instruction: str, count: int
) -> None:
    code = assembly(name, "x86_64-unknown-linux-gnu", features, small=True)
    assert code.count(instruction) == count
