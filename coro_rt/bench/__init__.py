"""What `coro-rt bench` measures: kernels beside the machine's limits, models beside llama.cpp.

`matrices` times single products, `decode` and `prefill` a model; `limits` says what the machine could do at
most. `ours` and the peers (`wheel`, `native`) are the sides that `turns` takes one after the other. What they
find are the rows of `measure`. Nothing here prints.
"""
