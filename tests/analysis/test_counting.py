import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from relation_heads.analysis.counting import Count, kept_bytes, multiply_adds

FLOAT = 4  # bytes


def rand(*shape):
    return torch.rand(*shape)


# (what runs, its multiplications by hand)
PRODUCTS = {
    "convolution": (
        lambda: F.conv2d(rand(2, 3, 8, 10), rand(5, 3, 3, 3), rand(5), stride=2, padding=1),
        2 * 5 * (4 * 5) * (3 * 9),
    ),
    "grouped": (
        lambda: F.conv2d(rand(1, 6, 4, 4), rand(8, 3, 1, 1), groups=2),
        8 * 16 * 3,
    ),
    "transposed": (
        lambda: F.conv_transpose2d(rand(1, 6, 4, 5), rand(6, 2, 2, 2), stride=2),
        (6 * 4 * 5) * (2 * 4),
    ),
    "1d, 3d": (
        lambda: (
            F.conv1d(rand(1, 3, 7), rand(2, 3, 1)),
            F.conv3d(rand(1, 2, 3, 3, 3), rand(4, 2, 1, 1, 1)),
        ),
        2 * 7 * 3 + 4 * 27 * 2,
    ),
    "linear": (lambda: F.linear(rand(7, 3), rand(5, 3), rand(5)), 7 * 5 * 3),
    "linear, more dimensions": (lambda: F.linear(rand(2, 7, 3), rand(5, 3)), 2 * 7 * 5 * 3),
    "mm": (lambda: rand(2, 3) @ rand(3, 4), 2 * 3 * 4),
    "matrix and vector": (lambda: rand(5, 3) @ rand(3), 15),
    "matrix, vector and sum": (lambda: torch.addmv(rand(5), rand(5, 3), rand(3)), 15),
    "vectors": (lambda: rand(6) @ rand(6), 6),
    "bmm": (lambda: torch.bmm(rand(2, 3, 4), rand(2, 4, 5)), 2 * 3 * 4 * 5),
    "baddbmm": (lambda: torch.baddbmm(rand(3, 5), rand(2, 3, 4), rand(2, 4, 5)), 2 * 3 * 4 * 5),
    "in place": (lambda: rand(2, 3, 5).baddbmm_(rand(2, 3, 4), rand(2, 4, 5)), 2 * 3 * 4 * 5),
    "einsum": (lambda: torch.einsum("nhqd,nhkd->nhqk", rand(2, 3, 4, 6), rand(2, 3, 5, 6)), 720),
    "attention": (
        lambda: F.scaled_dot_product_attention(rand(1, 2, 4, 6), *rand(2, 1, 2, 5, 6)),
        2 * (4 * 5 * 6) * 2,
    ),
    "weighted sum": (lambda: rand(2, 3, 4).addcmul_(rand(3, 1), rand(2, 3, 4)), 2 * 3 * 4),
    "weighted sum elsewhere": (lambda: torch.addcmul(rand(3, 1), rand(3, 4), rand(3, 4)), 12),
    "no product": (lambda: F.relu(rand(3, 3)) * rand(3, 3) + rand(3, 3).softmax(0), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("no_grad", [True, False])
def test_products_by_hand(name, no_grad):
    run, expected = PRODUCTS[name]
    with torch.set_grad_enabled(not no_grad):
        assert multiply_adds(run)[1] == Count(expected, 0)


def test_deformable_convolution_by_hand():
    deform_conv2d = pytest.importorskip("torchvision.ops").deform_conv2d
    x, offset, weight = rand(1, 4, 6, 6), rand(1, 18, 6, 6), rand(8, 2, 3, 3)
    _, count = multiply_adds(lambda: deform_conv2d(x, offset, weight, padding=1))
    assert count.elsewhere == 8 * 36 * (2 * 9)


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=4),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x @ x

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError


def test_custom_functions_are_seen():
    x = rand(3, 3).requires_grad_()
    assert multiply_adds(lambda: Squared.apply(x))[1].elsewhere == 27
    assert kept_bytes(lambda: Squared.apply(x))[1].elsewhere == 9 * FLOAT


def test_watched_modules_are_counted_apart_and_once():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.stock = nn.Linear(4, 4)
            self.new = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

        def forward(self, x):
            return self.stock(self.new(self.stock(x)))

    model = Nested()
    watched = [model.new, model.new[0]]
    assert multiply_adds(lambda: model(rand(2, 4)), watched)[1] == Count(64, 64)
    # Each layer keeps its input; x itself has no gradient and is kept by the first for its weight.
    assert kept_bytes(lambda: model(rand(2, 4)), watched, model.parameters())[1] == Count(64, 64)
    assert not model.new._forward_hooks and not model.new._forward_pre_hooks


def test_uncalculated_products_count_alike_and_are_zeros():
    model, x = network().eval(), rand(2, 3, 17, 15)
    out, count = multiply_adds(lambda: model(x), compute=False)
    assert count == multiply_adds(lambda: model(x))[1]
    assert out.shape == (2, 10) and not out.any()
    own = [*model.parameters(), *model.buffers()]
    kept = [kept_bytes(lambda: model(x), own=own, compute=c)[1] for c in (True, False)]
    assert kept[0] == kept[1] != Count(0, 0)


def test_kept_bytes_by_hand():
    first, second, x = nn.Linear(8, 16), nn.Linear(16, 2), rand(3, 8)
    own = [*first.parameters(), *second.parameters()]

    def run():
        return second(F.relu(first(x)))

    # The ReLU keeps its result, which is also the input that the second layer keeps: once.
    assert kept_bytes(run, own=own)[1].elsewhere == (3 * 8 + 3 * 16) * FLOAT
    first.requires_grad_(False)  # nothing is trained below the second layer
    assert kept_bytes(run, own=own)[1].elsewhere == 3 * 16 * FLOAT
    second.requires_grad_(False)
    assert kept_bytes(run, own=own)[1].elsewhere == 0


def test_what_does_not_lead_to_the_result_is_not_kept():
    x = rand(100).requires_grad_()

    def run():
        x.exp()  # thrown away
        return x.sum()

    assert kept_bytes(run)[1].elsewhere == 0


def test_nothing_stays_in_memory():
    layer, inputs = nn.Linear(4, 4), rand(2, 4)

    class Kept(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            out = x * 2
            ctx.save_for_backward(out)
            return out

    alive = []

    def run():
        hidden = layer(inputs)
        alive.append(weakref.ref(hidden))
        return Kept.apply(hidden.exp()).sin()

    result, _ = kept_bytes(run)
    del result
    gc.collect()
    assert alive[0]() is None


def test_tensors_without_memory_count_like_numbers():
    model, x = network(), rand(2, 3, 17, 15)
    own = [*model.parameters(), *model.buffers()]
    expected = (multiply_adds(lambda: model(x))[1], kept_bytes(lambda: model(x), own=own)[1])

    model, x = model.to("meta"), x.to("meta")
    own = [*model.parameters(), *model.buffers()]
    out, products = multiply_adds(lambda: model(x))
    assert (products, kept_bytes(lambda: model(x), own=own)[1]) == expected
    assert out.is_meta and out.shape == (2, 10)
