"""What `coro-rt bench` measures: kernels beside the machine's limits, models and answers beside llama.cpp.

`matrices` times single products, `decode` and `prefill` a model; `limits` says what the machine could do at
most. `ours` and the peers (`wheel`, `native`) are the sides that `turns` takes one after the other. `respond`
plays a `scene` on other sides: an `assistant` on coro_rt, and llama.cpp's `server`; `figures` are made of it.
What they find are the rows of `measure`. Nothing here prints.
"""
