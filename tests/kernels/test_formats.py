"""Quantizing with a search is better than without, for weights of every kind; odd ones come back."""

import numpy as np
import pytest

from coro_rt.kernels.formats import Format

QUANTIZED = [name for name, form in Format.known.items() if form.quantized]


def error(form: Format, values: np.ndarray, *, search: bool) -> float:
    back = form.dequantize(form.quantize(values, search=search), values.shape)
    return float(np.sqrt(np.square(back - values, dtype=np.float64).sum()))


def kinds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    outliers = rng.standard_normal((64, 512)) * np.where(rng.random((64, 512)) < 0.01, 20, 1)
    return {
        "normal": rng.standard_normal((64, 512)),
        "heavy tails": rng.laplace(size=(64, 512)),
        "uniform": rng.uniform(-1, 1, (64, 512)),
        "one sign": rng.uniform(0.5, 1, (64, 512)),
        "outliers": outliers,
        "small": rng.standard_normal((64, 512)) * 0.02,
        "rows of different size": rng.standard_normal((64, 512)) * np.logspace(-4, 2, 64)[:, None],
    }


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize(("kind", "values"), kinds().items(), ids=list(kinds()))
def test_a_search_takes_some_of_the_error_away(name: str, kind: str, values: np.ndarray) -> None:
    form, values = Format.known[name], values.astype(np.float32)
    ratio = error(form, values, search=True) / error(form, values, search=False)
    assert ratio < (0.97 if kind != "outliers" else 1.0), f"{name} of {kind}: {ratio:.3f} of the plain error"


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize(
    "values",
    [
        np.zeros(256),
        np.ones(256),
        -np.ones(256),
        np.eye(1, 256)[0],
        np.arange(256) - 128,
        np.full(256, 1e-30),
    ],
    ids=["zeros", "ones", "minus ones", "one of many", "a ramp", "nearly nothing"],
)
def test_odd_blocks_come_back(name: str, values: np.ndarray, search: bool) -> None:
    form, values = Format.known[name], values.astype(np.float32)[None]
    back = form.dequantize(form.quantize(values, search=search), values.shape)
    step = (values.max() - min(values.min(), 0)) / (2 ** min(form.bits, 7) - 1)
    assert np.abs(back - values).max() <= max(step, 2 * np.abs(values).max() / 2**form.bits) * 1.02 + 1e-5


def test_a_grid_that_fits_exactly_is_found() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (8, 64)).astype(np.float32)
    codes[:, ::32], codes[:, 1::32] = 0, 15
    for name, values in (("Q4_0", (codes - 8) * 0.25), ("Q4_1", codes * 0.25 - 1)):
        assert error(Format.known[name], values, search=True) == 0
