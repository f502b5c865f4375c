"""Linear layers by channel: the values of the layer, where rows begin, traces."""

import pytest
import torch
from torch import nn

from relation_heads.layers.linear import ALIGNMENT, linear_by_channel, pad_rows


@pytest.mark.parametrize("count", [0, 1, 8, 13])
def test_values_and_gradients_are_those_of_the_layer(count):
    layer = nn.Linear(6, 5).double()
    x, cotangent = torch.randn(count, 6).double().requires_grad_(), torch.randn(count, 5).double()
    out = linear_by_channel(layer, pad_rows(x))
    assert out.T.is_contiguous() and len(out) % ALIGNMENT == 0 and len(out) - count < ALIGNMENT
    torch.testing.assert_close(out[:count], layer(x))
    wanted = [x, *layer.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(out[:count], wanted, cotangent),
        torch.autograd.grad(layer(x), wanted, cotangent),
    )


def test_what_is_a_multiple_is_not_copied():
    x = torch.randn(2 * ALIGNMENT, 3)
    assert pad_rows(x) is x


def test_a_trace_is_right_for_other_numbers():
    layer = nn.Linear(6, 5).requires_grad_(False)
    traced = torch.jit.trace(lambda x: linear_by_channel(layer, pad_rows(x)), torch.randn(13, 6))
    x = torch.randn(24, 6)
    torch.testing.assert_close(traced(x), layer(x))
