# Each target makes what it needs: a virtual environment in .venv, from Python 3.11 or newer, with this repo in it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGE := setup.cfg pyproject.toml

.PHONY: demo test check bench bench-peer soak

demo: $(VENV)/demo.stamp
	$(BIN)/coro-rt demo

# The tests that need the model are skipped where it cannot be had, those that need a GPU where there is none.
test: $(VENV)/test.stamp $(VENV)/gpu.stamp $(VENV)/npu.stamp
	-$(BIN)/coro-rt pull smollm2-135m-instruct
	$(BIN)/python -m pytest -m "not soak"

soak: $(VENV)/test.stamp $(VENV)/gpu.stamp $(VENV)/npu.stamp
	-$(BIN)/coro-rt pull smollm2-135m-instruct
	$(BIN)/python -m pytest --hypothesis-profile=default -m "not soak" tests/schedulers tests/memory tests/kernels
	$(BIN)/python -m pytest -m soak

check: $(VENV)/check.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/bench.stamp
	$(BIN)/coro-rt pull smollm2-135m-instruct
	$(BIN)/coro-rt bench kernels
	$(BIN)/coro-rt bench decode --peer llama.cpp --batch 4 --beside-busy
	$(BIN)/coro-rt bench prefill --peer llama.cpp
	$(BIN)/coro-rt bench respond --peer llama.cpp
	$(BIN)/coro-rt compare --report comparison.html
	$(BIN)/python benchmarks/run.py

# llama.cpp compiled for this machine, the second peer of `make bench`: it takes some ten minutes, and a C++ compiler.
bench-peer:
	$(PYTHON) -m venv .venv-peer
	CMAKE_ARGS=-DGGML_NATIVE=on .venv-peer/bin/pip install --no-binary llama-cpp-python llama-cpp-python

$(VENV)/demo.stamp: EXTRA :=
$(VENV)/test.stamp: EXTRA := [test]
$(VENV)/check.stamp: EXTRA := [check]
$(VENV)/bench.stamp: EXTRA := [bench,report]

$(VENV)/%.stamp: $(PACKAGE) | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.$(EXTRA)'
	touch $@

# Extras that there are not wheels of everywhere: without them, their tests are skipped.
$(VENV)/gpu.stamp: $(PACKAGE) | $(BIN)/pip
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary wgpu --editable '.[gpu]'
	touch $@

$(VENV)/npu.stamp: $(PACKAGE) | $(BIN)/pip
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary onnx,onnxruntime --editable '.[npu]'
	touch $@

$(BIN)/pip: # made last, so never half an environment
	$(PYTHON) -m venv $(VENV)
