"""What tests of devices share."""

from __future__ import annotations

import pytest

from calib8.engine import use_gpu
from calib8.engine.gpu import check_gpu, check_sums


@pytest.fixture(autouse=True)
def _the_cpu_afterwards():
    yield
    use_gpu(None)
    check_gpu.cache_clear()
    check_sums.cache_clear()
