from __future__ import annotations

import numpy as np
import pytest

from pneumonai.pipeline.result import in_order_of


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_map_is_laid_in_memory_as_the_image_is(order: str, axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 100, size=(4, 5, 6), dtype=np.int16).transpose(axes)
    array = np.array(rng.integers(0, 3, size=image.shape, dtype=np.uint8), order=order)
    laid = in_order_of(image, array)
    np.testing.assert_array_equal(laid, array)
    assert [stride * image.itemsize for stride in laid.strides] == list(image.strides)
    assert np.shares_memory(in_order_of(image, laid), laid)
