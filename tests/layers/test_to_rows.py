"""Tensors of every layer type as samples, rows and features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normprobe.errors import ViewError
from normprobe.layers.to_rows import arrange, extent_of
from normprobe.layers.view import View
from normprobe.layers.view_registry import registered_view


def counting(*shape: int) -> Tensor:
    return torch.arange(float(np.prod(shape))).reshape(shape)


def test_positions_of_the_last_axis() -> None:
    values = counting(2, 3, 4)
    arranged = arrange(View("linear"), values)
    assert arranged.values.shape == (6, 1, 4)
    assert (arranged.leading, arranged.inner) == ((2, 3), ())
    assert torch.equal(arranged.values.reshape(2, 3, 4), values)


def test_a_single_vector_is_one_sample() -> None:
    arranged = arrange(View("linear"), counting(4))
    assert arranged.values.shape == (1, 1, 4)
    assert (arranged.leading, arranged.inner) == ((), ())


def test_several_normalized_axes_are_features_in_row_major_order() -> None:
    values = counting(5, 2, 3, 4)
    arranged = arrange(View("layer_norm", trailing=2), values)
    assert arranged.values.shape == (10, 1, 12)
    assert arranged.leading == (5, 2)
    assert torch.equal(arranged.values[3, 0], values[1, 1].flatten())
    assert arrange(View("layer_norm", trailing=2), counting(3, 4)).values.shape == (1, 1, 12)


def test_channels_of_an_example_have_a_row_per_pixel() -> None:
    values = counting(2, 3, 4, 5)
    arranged = arrange(View("batch_norm", 1, "example"), values)
    assert arranged.values.shape == (2, 20, 3)
    assert (arranged.leading, arranged.inner) == ((2,), (4, 5))
    assert torch.equal(arranged.values[1, 7], values[1, :, 1, 2])
    assert arrange(View("batch_norm", 1, "example"), counting(6, 3)).values.shape == (6, 1, 3)


def test_positions_over_the_channel_axis() -> None:
    values = counting(2, 3, 4, 5)
    arranged = arrange(View("layer_norm", 1), values)
    assert arranged.values.shape == (40, 1, 3)
    assert arranged.leading == (2, 4, 5)
    assert torch.equal(arranged.values[27, 0], values[1, :, 1, 2])


def test_an_instance_norm_takes_an_input_without_a_batch() -> None:
    view = registered_view(nn.InstanceNorm2d(3))[1]
    assert view is not None
    assert arrange(view, counting(3, 4, 5)).values.shape == (1, 20, 3)
    assert arrange(view, counting(2, 3, 4, 5)).values.shape == (2, 20, 3)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_empty_tensors_are_arranged(shape: tuple[int, ...]) -> None:
    for view in (View("linear"), View("layer_norm", trailing=2), View("batch_norm", 1, "example")):
        arranged = arrange(view, torch.zeros(shape))
        assert arranged.values.numel() == 0
        assert arranged.values.shape[0] == np.prod(arranged.leading)


def test_arranging_copies_nothing_that_it_need_not() -> None:
    values = counting(2, 3, 4, 5)
    for view in (View("linear"), View("layer_norm", trailing=3), View("batch_norm", 1, "example")):
        assert arrange(view, values).values.data_ptr() == values.data_ptr()


@pytest.mark.parametrize(
    ("view", "shape"),
    [
        (View("batch_norm", 1, "example"), (4,)),
        (View("linear"), ()),
        (View("layer_norm", trailing=3), (2, 3)),
    ],
)
def test_too_few_axes_are_an_error_that_says_so(view: View, shape: tuple[int, ...]) -> None:
    with pytest.raises(ViewError, match=r"a tensor of shape \(.*\) has no feature axis"):
        arrange(view, torch.zeros(shape))


@pytest.mark.parametrize(
    ("view", "shape"),
    [
        (View("linear"), (2, 3, 4)),
        (View("linear"), (4,)),
        (View("layer_norm", trailing=2), (5, 2, 3, 4)),
        (View("layer_norm", 1), (2, 3, 4, 5)),
        (View("batch_norm", 1, "example"), (2, 3, 4, 5)),
        (View("instance_norm", 1, "example", unbatched=3), (3, 4, 5)),
        (View("linear"), (0, 3, 4)),
    ],
)
def test_the_extent_has_the_sizes_of_the_arranged_tensor(view: View, shape: tuple[int, ...]) -> None:
    arranged, extent = arrange(view, torch.zeros(shape)), extent_of(view, shape)
    assert (extent.samples, extent.rows, extent.features) == arranged.values.shape
    assert (extent.leading, extent.inner) == (arranged.leading, arranged.inner)
