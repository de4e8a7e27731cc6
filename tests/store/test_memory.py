"""Memory for features begins on a cache line, whatever its shape."""

from __future__ import annotations

import numpy as np
import pytest

from supportset.store.files.memory import ALIGNMENT, empty_aligned


@pytest.mark.parametrize("dtype", [np.float16, np.float32, "<f8", np.uint8])
def test_begins_on_a_cache_line(dtype: str | type) -> None:
    kept = []  # so that each comes from another place
    for shape in [(0, 512), (1, 1), (7, 3), (1000, 512), (3,), (100_000, 12)]:
        array = empty_aligned(shape, dtype)
        kept.append(array)
        assert array.shape == shape
        assert array.dtype == np.dtype(dtype)
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.ctypes.data % ALIGNMENT == 0 or not array.size


def test_arrays_do_not_share_memory() -> None:
    first, second = empty_aligned((5, 5), np.float32), empty_aligned((5, 5), np.float32)
    first[...], second[...] = 1, 2
    assert (first == 1).all()
