"""Every implementation agrees with its NumPy reference within the named bound with any number of threads."""

from collections.abc import Iterator

import numpy as np
import pytest

from coro_rt.kernels.cases import Case, cases
from coro_rt.kernels.gang import Gang

ALL = list(cases())


@pytest.fixture(params=[1, 2, 3])
def gang(request: pytest.FixtureRequest) -> Iterator[Gang]:
    gang = Gang(request.param)
    gang.start()
    yield gang
    gang.close()


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_the_implementation_agrees_with_the_reference(case: Case, gang: Gang) -> None:
    assert case.worst(gang) <= case.bound


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_threads_do_not_change_a_bit(case: Case, gang: Gang) -> None:
    assert np.array_equal(case.implementation(None), case.implementation(gang))
