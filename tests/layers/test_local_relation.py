import copy

import pytest
import torch
from torch import nn

from benchmarks.measure import peak_bytes
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.blocks import window_sum
from relation_heads.layers.blocks.local_relation import (
    SIMILARITIES,
    LocalRelation,
    ResidualLocalRelation,
)
from tests.layers import reference_local_relation as reference

EXACT = {"rtol": 1e-10, "atol": 1e-10}
similarities = pytest.mark.parametrize("similarity", SIMILARITIES)


def make(**options) -> LocalRelation:
    """With parameters large enough for weights that are far from uniform."""
    layer = LocalRelation(**{"channels": 4, "channels_per_group": 2, "window": 3, **options})
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.8)
    return layer


def gradients(layer: nn.Module, x: torch.Tensor, out: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a weighted sum of `out`, by name of the parameter, and for x."""
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    named = {"x": x, **dict(layer.named_parameters())}
    values = torch.autograd.grad((out * weights).sum(), list(named.values()))
    return dict(zip(named, values, strict=True))


def assert_equals_reference(layer: LocalRelation, x: torch.Tensor) -> None:
    """Value, and gradients of the input and of all parameters."""
    layer, x = layer.double(), x.double().requires_grad_()
    actual, expected = layer(x), reference.local_relation(layer, x)
    assert actual.shape == expected.shape and expected.std() > 0.1
    torch.testing.assert_close(actual, expected, **EXACT)
    expected_gradients = gradients(layer, x, expected)
    for name, gradient in gradients(layer, x, actual).items():
        torch.testing.assert_close(gradient, expected_gradients[name], **EXACT, msg=name)
        assert gradient.abs().max() > 1e-3, name


# ---- against the loops ----


@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize("stride", [1, 2])
@similarities
def test_values_and_gradients_equal_the_loops(similarity, stride, rows, monkeypatch):
    width = (6 + stride - 1) // stride
    # 9 places x 2 groups of float64 for each query; 100 rows are more than both images have
    monkeypatch.setattr(window_sum, "SCRATCH_BYTES", rows * 9 * 2 * width * 8)
    layer = make(similarity=similarity, stride=stride)
    assert_equals_reference(layer, torch.randn(2, 4, 5, 6))


@pytest.mark.parametrize("window", [1, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_windows_and_strides(stride, window):
    x = torch.randn(1, 4, 8, 7)
    layer = make(window=window, stride=stride)
    if window > 1:
        assert_equals_reference(layer, x)
    else:  # nothing to choose from: what learns is W_o
        torch.testing.assert_close(layer(x), layer.out(x[:, :, ::stride, ::stride]))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (3, 2), (2, 9)])
@pytest.mark.parametrize("stride", [1, 2])
def test_maps_smaller_than_the_window(size, stride):
    layer, x = make(window=7, stride=stride).double(), torch.randn(2, 4, *size).double()
    torch.testing.assert_close(layer(x), reference.local_relation(layer, x), **EXACT)


@pytest.mark.parametrize(
    "options", [{"channels_per_group": 1, "prior_channels": 6}, {"channels_per_group": 4}]
)
def test_groups_and_the_width_of_the_prior(options):
    assert_equals_reference(make(bias=False, **options), torch.randn(1, 4, 4, 5))


@similarities
def test_gradients_are_those_of_small_steps(similarity):
    shapes = (1, 2, 2, 2), (1, 2, 3, 4), (1, 4, 3, 4), (9, 2)
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    run = window_sum._WindowSum.apply
    assert torch.autograd.gradcheck(lambda *t: run(*t, 3, 2, similarity), tensors)


def test_a_neighbour_outside_is_none_and_not_a_zero():
    layer, x = make(window=3), torch.ones(1, 4, 4, 4)
    y = layer.listen(x)  # means of equal values, also at the border
    torch.testing.assert_close(y, x)


def test_large_logits_do_not_overflow():
    layer = make()
    nn.init.constant_(layer.query.weight, 50.0)
    nn.init.constant_(layer.key.weight, 50.0)
    x = torch.rand(1, 4, 5, 6, requires_grad=True)
    out = layer(x)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(layer, x, out).values())


def test_a_position_sees_its_window_alone():
    layer, x = make(window=5), torch.randn(1, 4, 9, 11)
    moved = x.clone()
    moved[0, :, 4, 5] += 1
    changed = (layer(moved) != layer(x)).any(dim=1)[0]
    expected = torch.zeros(9, 11, dtype=torch.bool)
    expected[2:7, 3:8] = True
    assert torch.equal(changed, expected)


# ---- forms ----


@similarities
@pytest.mark.parametrize("stride", [1, 2])
def test_the_form_of_traces_is_the_same(stride, similarity):
    layer = make(similarity=similarity, stride=stride, window=5).double().requires_grad_(False)
    traced = torch.jit.trace(layer, torch.randn(1, 4, 6, 5).double())
    x = torch.randn(2, 4, 7, 9).double()
    torch.testing.assert_close(traced(x), layer(x), **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("half_input", [False, True])
def test_autocast_computes_the_sums_in_float32(half_input, dtype):
    layer = make(channels=16, channels_per_group=8)
    x = torch.randn(2, 16, 6, 7, dtype=dtype if half_input else torch.float32, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        y = layer.listen(x)
        q, k = layer.query(x).double(), layer.key(x).double()
        found = gradients(layer, x, layer(x))
    prior = layer.prior(layer.shifts).double()
    expected = window_sum._window_sum_by_copies(q, k, x.double(), prior, 3, 1, "product")
    assert y.dtype == x.dtype
    half_a_step = torch.finfo(x.dtype).eps / 2
    torch.testing.assert_close(y.double(), expected, rtol=1.01 * half_a_step, atol=1e-5)
    exact = copy.deepcopy(layer).double()
    x = x.detach().double().requires_grad_()
    for name, gradient in gradients(exact, x, exact(x)).items():
        assert (found[name] - gradient).norm() < 0.05 * gradient.norm() + 0.05, name


def test_channels_last_is_only_a_layout():
    layer, x = make().double(), torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    expected = gradients(layer, x, layer(x))
    for name, gradient in gradients(layer, last, layer(last)).items():
        torch.testing.assert_close(gradient, expected[name], **EXACT)


def test_without_an_image():
    assert make(stride=2)(torch.zeros(0, 4, 5, 6)).shape == (0, 4, 3, 3)


def test_no_tensor_of_all_neighbours():
    """49 neighbours, m = 8."""
    layer = LocalRelation(channels=32)
    x = torch.randn(1, 32, 24, 24, requires_grad=True)
    one_map, copies = 4 * x.numel(), 49 * 4 * x.numel()

    def step(form):
        return lambda: form(x).sum().backward()

    step(layer)()  # makes the gradients of parameters, which stay
    scratch = 49 / 8 * one_map  # the weights of this map fit one block
    assert peak_bytes(step(layer)) < scratch + 8 * one_map < copies / 3
    arguments = (layer.query(x), layer.key(x), x, layer.prior(layer.shifts / 3), 7, 1, "product")
    by_copies = window_sum._window_sum_by_copies
    assert peak_bytes(lambda: by_copies(*arguments).sum().backward()) > 2 * copies


def test_a_second_derivative_is_refused():
    layer, x = make(), torch.randn(1, 4, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# ---- parameters and arguments ----


def test_parameters():
    layer = LocalRelation(channels=64)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "query.weight": (8, 64, 1, 1),
        "query.bias": (8,),
        "key.weight": (8, 64, 1, 1),
        "prior.0.weight": (4, 2),
        "prior.0.bias": (4,),
        "prior.2.weight": (8, 4),
        "out.weight": (64, 64, 1, 1),
        "out.bias": (64,),
    }
    assert layer.state_dict().keys() == dict(layer.named_parameters()).keys()
    bound = 3 * (2 / 64) ** 0.5
    assert not layer.out.bias.any() and 0.5 * bound < layer.out.weight.abs().max() < 2 * bound
    assert "bias" not in dict(LocalRelation(channels=8, bias=False).out.named_parameters())


NORMS = {"no_norm": None, "norm": nn.BatchNorm2d}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_the_residual_form_starts_as_the_identity_and_then_learns(norm):
    block = ResidualLocalRelation(channels=16, norm=norm)
    x = torch.randn(2, 16, 5, 6)
    zeroed = {"relation.out.weight", "relation.out.bias"} if norm is None else {
        "norm.weight",
        "norm.bias",
    }  # fmt: skip
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    out = block(x)
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert {name for name, p in block.named_parameters() if p.grad.any()} == zeroed
    optimizer.step()
    optimizer.zero_grad()
    block(x).square().sum().backward()
    assert all(p.grad.any() for p in block.parameters())


def test_the_residual_form_adds_the_layer():
    block = ResidualLocalRelation(channels=16, window=3, channels_per_group=4, prior_channels=3)
    nn.init.normal_(block.relation.out.weight)
    x = torch.randn(1, 16, 5, 6)
    torch.testing.assert_close(block(x), x + block.relation(x))
    assert block.relation.query.out_channels == 4 and block.relation.prior[0].out_features == 3


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"channels": 100}, {"channels": 100}),
        ({"channels": 0}, {"channels": 0}),
        ({"channels_per_group": 0, "window": 4}, {"channels_per_group": 0, "window": 4}),
        ({"window": -1, "stride": 0}, {"window": -1, "stride": 0}),
        ({"similarity": "dot", "prior_channels": 0}, {"similarity": "dot", "prior_channels": 0}),
    ],
)
def test_wrong_arguments(options, wrong):
    with pytest.raises(ArgumentError) as caught:
        LocalRelation(**{"channels": 16, **options})
    assert {w.argument: w.value for w in caught.value.wrong} == wrong


def test_groups_that_do_not_divide_the_channels_are_one_sentence():
    with pytest.raises(ArgumentError) as caught:
        LocalRelation(channels=100)
    assert str(caught.value) == "channels must be a multiple of channels_per_group 8, got 100."


def test_a_norm_that_cannot_learn_is_an_error():
    with pytest.raises(ArgumentError) as caught:
        ResidualLocalRelation(channels=16, norm=lambda c: nn.BatchNorm2d(c, affine=False))
    assert [(w.argument, w.value) for w in caught.value.wrong] == [("norm", "BatchNorm2d")]
