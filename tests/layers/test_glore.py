import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.blocks.glore import GloRe, PreActivationGloRe
from tests.layers.reference_glore import (
    NaiveGloRe,
    pretrained_network,
    released_order,
    train,
    with_unit,
)

PLACES = {1: (13,), 2: (7, 5), 3: (3, 4, 5)}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def official_norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=1e-4)


UNITS = {
    "no_norm": GloRe,
    "norm": partial(GloRe, norm=official_norm),
    "pre_activation": PreActivationGloRe,
}


def awake(unit: nn.Module) -> nn.Module:
    """As after some training: no parameter and no statistic is what it was at the start."""
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    for child in unit.modules():
        if getattr(child, "running_mean", None) is not None:
            nn.init.normal_(child.running_mean)
            nn.init.uniform_(child.running_var, 0.5, 2.0)
    return unit


def settled(unit: nn.Module, x: torch.Tensor) -> nn.Module:
    """Its running statistics are those of `x`."""
    for child in unit.modules():
        if hasattr(child, "momentum"):
            child.momentum = 1.0
    with torch.no_grad():
        unit.train()(x)
    return unit


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def assert_equals_reference(unit, x):
    """Value, gradients of the input and of all parameters, and running statistics."""
    other = copy.deepcopy(unit)
    results = []
    for module, function in ((unit, unit), (other, partial(released_order, other))):
        module.zero_grad()
        leaf = x.detach().requires_grad_()
        y = function(leaf)
        torch.manual_seed(1)
        y.backward(torch.randn_like(y))
        grads = {name: p.grad for name, p in module.named_parameters()}
        results.append({"y": y.detach(), "x": leaf.grad, **grads, **dict(module.named_buffers())})
    actual, expected = results
    for name, value in expected.items():
        assert value.any() or name.endswith("num_batches_tracked"), name
        scale = float(value.abs().max())
        torch.testing.assert_close(
            actual[name], value, rtol=0, atol=1e-10 * max(scale, 1.0), msg=name
        )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("with_norm", [True, False], ids=["norm", "no_norm"])
@pytest.mark.parametrize("normalize", [True, False], ids=["mean", "sum"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_equals_the_released_order_of_operations(dims, stride, normalize, with_norm, training):
    norm = (lambda c: NORMS[dims](c, eps=1e-4)) if with_norm else None
    unit = GloRe(channels=12, dims=dims, stride=stride, normalize=normalize, norm=norm)
    x = torch.randn(2, 12, *PLACES[dims], dtype=torch.float64)
    assert_equals_reference(awake(unit).double().train(training), x)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("normalize", [True, False], ids=["mean", "sum"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_pre_activation_equals_the_released_order(dims, stride, normalize, training):
    unit = PreActivationGloRe(channels=12, dims=dims, stride=stride, normalize=normalize)
    x = torch.randn(2, 12, *PLACES[dims], dtype=torch.float64)
    assert_equals_reference(awake(unit).double().train(training), x)


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "expanded"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", UNITS)
def test_layouts(kind, training, layout):
    unit = awake(UNITS[kind](channels=12)).double().train(training)
    x = torch.randn(2, 12, 14, 5, dtype=torch.float64)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        x = x[:, :, ::2]
    else:
        x = x[:1].expand(3, -1, -1, -1)
    assert_equals_reference(unit, x)
    if layout == "channels_last":
        assert unit(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 8), (4, 4), (5, 9)])
def test_stride_works_for_any_size(size, kind):
    unit = awake(UNITS[kind](channels=24, stride=4)).double().eval()
    assert_equals_reference(unit, torch.randn(2, 24, *size, dtype=torch.float64))


@pytest.mark.parametrize(
    ("channels", "num_nodes", "expected"),
    [
        (1024, 256, 1_641_472),
        (1024, None, 1_641_472),
        (512, 128, 411_136),
        (512, 64, 185_600),
        (2048, 512, 6_559_744),
    ],
)
def test_parameters_at_the_released_sizes(channels, num_nodes, expected):
    unit = GloRe(channels=channels, num_nodes=num_nodes, norm=official_norm)
    assert sum(p.numel() for p in unit.parameters()) == expected


@pytest.mark.parametrize(("channels", "expected"), [(1024, 1_645_056), (512, 412_928)])
def test_parameters_of_the_imagenet_table(channels, expected):
    unit = PreActivationGloRe(channels=channels)
    assert sum(p.numel() for p in unit.parameters()) == expected
    assert [m.eps for m in unit.modules() if hasattr(m, "running_mean")] == 5 * [1e-3]


def test_released_weights_fit():
    shapes = {
        k: tuple(v.shape) for k, v in GloRe(channels=16, norm=official_norm).state_dict().items()
    }
    assert shapes == {
        "conv_state.weight": (8, 16, 1, 1),
        "conv_state.bias": (8,),
        "conv_proj.weight": (4, 16, 1, 1),
        "conv_proj.bias": (4,),
        "gcn.conv1.weight": (4, 4, 1),
        "gcn.conv1.bias": (4,),
        "gcn.conv2.weight": (8, 8, 1),
        "conv_extend.weight": (16, 8, 1, 1),
        "blocker.weight": (16,),
        "blocker.bias": (16,),
        "blocker.running_mean": (16,),
        "blocker.running_var": (16,),
        "blocker.num_batches_tracked": (),
    }
    assert not [k for k in GloRe(channels=16).state_dict() if k.startswith("blocker")]
    assert GloRe(channels=16, dims=3).conv_proj.weight.shape == (4, 16, 1, 1, 1)


def test_initial_values():
    unit = GloRe(channels=64, norm=official_norm)
    for conv in (unit.conv_state, unit.conv_proj, unit.gcn.conv1, unit.gcn.conv2, unit.conv_extend):
        bound = math.sqrt(6 / (conv.in_channels + conv.out_channels))
        assert 0.95 * bound < conv.weight.abs().max() <= bound
        assert conv.bias is None or not conv.bias.any()
    assert not unit.blocker.weight.any() and not unit.blocker.bias.any()
    assert not GloRe(channels=64).conv_extend.weight.any()
    assert not PreActivationGloRe(channels=64).conv_extend.weight.any()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("unit", [*UNITS.values(), partial(GloRe, norm=partial(nn.GroupNorm, 4))])
def test_identity_when_new_bitwise(unit, training, dtype):
    for stride in (1, 2):
        new = unit(channels=16, stride=stride).train(training)
        x = 10 * torch.randn(2, 16, 9, 7)
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            for y in (x, x.contiguous(memory_format=torch.channels_last)):
                assert torch.equal(new(y), x)


@pytest.mark.parametrize("kind", UNITS)
def test_only_what_is_zero_has_a_gradient_at_first(kind):
    unit = UNITS[kind](channels=16)
    zeroed = {"blocker.weight", "blocker.bias"} if kind == "norm" else {"conv_extend.weight"}
    x = torch.randn(2, 16, 9, 7)
    optimizer = torch.optim.SGD(unit.parameters(), lr=0.1)
    unit(x).square().sum().backward()
    assert {name for name, p in unit.named_parameters() if p.grad.any()} == zeroed
    optimizer.step()
    optimizer.zero_grad()
    unit(x).square().sum().backward()
    assert all(p.grad.any() for p in unit.parameters())  # and from the second step on, everything


@pytest.mark.parametrize("kind", UNITS)
def test_batch_equals_image_by_image(kind):
    unit = awake(UNITS[kind](channels=16)).double().eval()
    x = torch.randn(3, 16, 6, 5, dtype=torch.float64)
    alone = torch.cat([unit(image[None]) for image in x])
    torch.testing.assert_close(unit(x), alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("shape", [(0, 16, 4, 4), (2, 16, 0, 4), (2, 16, 4, 0)])
@pytest.mark.parametrize("stride", [1, 2])
def test_nothing_at_all(shape, stride, kind):
    unit = UNITS[kind](channels=16, stride=stride)
    state = copy.deepcopy(unit.state_dict())
    assert unit(torch.zeros(shape)).shape == shape
    assert all(torch.equal(v, state[k]) for k, v in unit.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", UNITS)
def test_autocast_is_close(kind, training, dtype):
    unit = UNITS[kind](channels=32, stride=2)
    nn.init.normal_(unit.conv_extend.weight, std=0.2)
    image = torch.randn(2, 32, 12, 10)
    unit = settled(awake(unit), image).train(training)
    for x in (image, image.to(dtype)):
        expected = unit(x.float()) - x.float()
        with torch.autocast("cpu", dtype=dtype):
            y = unit(x)
            y.float().square().mean().backward()
        assert y.dtype == x.dtype
        assert relative_error(y.float() - x.float(), expected) < 0.05
        assert all(p.grad.isfinite().all() for p in unit.parameters())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_sum_over_a_map_does_not_fit_float16(training):
    unit = awake(GloRe(channels=64, normalize=False, norm=official_norm))
    x = 3 * torch.randn(1, 64, 50, 84).relu()
    unit = settled(unit, x).train(training)
    expected = unit(x)
    with torch.autocast("cpu", dtype=torch.float16):
        assert not released_order(unit, x).isfinite().all()
        actual = unit(x)
        half = unit(x.half())
    assert actual.isfinite().all() and half.isfinite().all()
    assert (actual.dtype, half.dtype) == (torch.float32, torch.float16)
    assert relative_error(actual - x, expected - x) < 0.02
    assert relative_error(half.float() - x, expected - x) < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision(dtype):
    unit = awake(GloRe(channels=32, norm=official_norm)).eval()
    x = torch.randn(2, 32, 9, 7)
    expected = unit(x) - x
    actual = unit.to(dtype)(x.to(dtype))
    assert actual.dtype == dtype
    assert relative_error(actual.float() - x, expected) < 0.05


class FrozenNorm(nn.Module):
    """Its weight is a buffer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))


@pytest.mark.parametrize(
    "norm",
    [
        FrozenNorm,
        lambda c: nn.BatchNorm2d(c, affine=False),
        lambda c: nn.BatchNorm2d(c).requires_grad_(False),
        lambda c: nn.Identity(),
    ],
)
def test_a_norm_that_cannot_learn_is_an_error(norm):
    with pytest.raises(ArgumentError) as caught:
        GloRe(channels=16, norm=norm)
    assert [(w.argument, w.value) for w in caught.value.wrong] == [
        ("norm", type(norm(16)).__name__)
    ]


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"dims": 4}, {"dims": 4}),
        ({"channels": 3}, {"num_nodes": 0}),
        ({"num_nodes": 0, "stride": 0, "dims": 0}, {"num_nodes": 0, "stride": 0, "dims": 0}),
        ({"channels": 0, "norm": official_norm}, {"channels": 0, "num_nodes": 0}),
    ],
)
def test_wrong_arguments(options, wrong):
    with pytest.raises(ArgumentError) as caught:
        GloRe(**{"channels": 16, **options})
    assert {w.argument: w.value for w in caught.value.wrong} == wrong


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("shape", [(2, 15, 4, 4), (2, 16, 4), (16, 4, 4)])
def test_wrong_shapes(shape, kind):
    with pytest.raises(ValueError, match=r"must be \(n, 16, height, width\), got"):
        UNITS[kind](channels=16)(torch.zeros(shape))


# ---- fine-tuning a pretrained network ----

LEARNING_RATES = (0.04, 0.01, 0.001)


@pytest.fixture(scope="module")
def pretrained() -> nn.Sequential:
    return pretrained_network()


@pytest.mark.parametrize("lr", LEARNING_RATES)
def test_a_naive_unit_destroys_a_pretrained_network_at_every_learning_rate(pretrained, lr):
    base = train(copy.deepcopy(pretrained), lr, steps=1, noise=1.0, seed=1)[0]
    losses = train(with_unit(pretrained, NaiveGloRe(64, 16)), lr, steps=10, noise=1.0, seed=1)
    assert losses[0] > 100 * base
    assert not math.isfinite(losses[-1])


@pytest.mark.parametrize(
    ("norm", "lr"),
    # Without a norm the branch stays cubic in X, and 0.04 can be too much for it.
    [*((official_norm, lr) for lr in LEARNING_RATES), (None, 0.01), (None, 0.001)],
    ids=lambda v: "norm" if v is official_norm else str(v),
)
def test_the_unit_fine_tunes_at_the_same_learning_rates(pretrained, norm, lr):
    base = train(copy.deepcopy(pretrained), lr, steps=1, noise=1.0, seed=1)[0]
    unit = GloRe(channels=64, num_nodes=16, norm=norm)
    losses = train(with_unit(pretrained, unit), lr, steps=10, noise=1.0, seed=1)
    assert losses[0] == base
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    x = torch.ones(1, 64, 2, 2)
    assert not torch.equal(unit.eval()(x), x)  # the unit itself has learned something
