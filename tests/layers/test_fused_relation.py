"""Fused object relation against the simple form and the slow reference: values, every gradient,
blocks, memory."""

import pytest
import torch

from benchmarks.measure import peak_bytes
from relation_heads.layers import ObjectRelation, Regions
from relation_heads.layers.geometry import (
    MIN_GATE,
    PAIR_GEOMETRIES,
    log_gate,
    pair_embedding,
    position_bias,
)
from relation_heads.layers.object_relation import fused as fused_relation
from relation_heads.layers.object_relation.module import GEOMETRIES, relation_weights
from tests.layers.reference_object_relation import relate_image
from tests.layers.test_object_relation import DIM, SIZE, make, make_regions, norms, random_boxes

fused = fused_relation.fused_relation


def pair(geometry: str = "relation", **kwargs) -> tuple[ObjectRelation, ObjectRelation]:
    """A simple and a fused module of the same float64 weights."""
    simple, ours = (
        make(geometry, implementation=name, **kwargs).double() for name in ("simple", "fused")
    )
    ours.load_state_dict(simple.state_dict())
    return simple, ours


def wide_regions(counts, keys=None) -> Regions:
    regions = make_regions(counts, keys)
    regions.boxes[1] = regions.boxes[0]  # the same place twice
    return Regions(regions.boxes.double(), regions.splits, regions.image_sizes, regions.is_key)


def values_and_gradients(module, features, regions, cotangent):
    features = features.clone().requires_grad_()
    out = module(features, regions)
    return out, torch.autograd.grad(out, [features, *module.parameters()], cotangent)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks, the last of them smaller."""
    monkeypatch.setattr(fused_relation, "NUMBERS_PER_KEY", 150)


@norms
@pytest.mark.parametrize("normalize_by", ["query", "key"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equals_simple_and_the_slow_reference(geometry, normalize_by, norm):
    simple, ours = pair(geometry, normalize_by=normalize_by, norm=norm)
    keys = [torch.arange(9) % 4 != 2, torch.arange(5) > 0]
    regions = wide_regions((9, 5), keys)
    features, cotangent = torch.randn(2, 14, DIM, dtype=torch.float64)
    expected, expected_grads = values_and_gradients(simple, features, regions, cotangent)
    out, grads = values_and_gradients(ours, features, regions, cotangent)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    for name, mine, other in zip(
        ["features", *(n for n, _ in ours.named_parameters())], grads, expected_grads, strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-11, msg=name)
        assert mine.any() or name == "key.bias", name
    slow = [
        relate_image(ours, f, b, k.tolist())
        for f, b, k in zip(regions.split(features), regions.split(regions.boxes), keys, strict=True)
    ]
    torch.testing.assert_close(out, torch.cat(slow), rtol=1e-12, atol=1e-12)


def arguments(num_queries=6, num_keys=9, heads=3, key_dim=5, value_dim=7, dtype=torch.float64):
    """query, key, value, both boxes, W_G and its bias; keys are others than the queries."""
    queries = torch.randn(num_queries, heads, key_dim, dtype=dtype)
    keys = torch.randn(num_keys, heads, key_dim, dtype=dtype)
    values = torch.randn(num_keys, heads, value_dim, dtype=dtype)
    weight, bias = torch.randn(heads, 64, dtype=dtype), torch.randn(heads, dtype=dtype)
    for x in (queries, keys, values, weight, bias):
        x.requires_grad_()
    boxes = random_boxes(num_queries, 1).to(dtype), random_boxes(num_keys, 2).to(dtype)
    return queries, keys, values, *boxes, weight, bias


@pytest.mark.parametrize("geometry", PAIR_GEOMETRIES)
def test_gradcheck_with_other_keys_and_widths(geometry):
    query, key, value, asking, answering, weight, bias = arguments()
    assert torch.autograd.gradcheck(
        lambda q, k, v, w, b: fused(q, k, v, asking, answering, w, b, geometry=geometry),
        (query, key, value, weight, bias),
        fast_mode=True,
    )


def test_the_size_of_blocks_changes_nothing(monkeypatch):
    inputs = arguments(23, 17)
    results = []
    for numbers in (1, 150, 500, 10000):
        monkeypatch.setattr(fused_relation, "NUMBERS_PER_KEY", numbers)
        out = fused(*inputs)
        wanted = [x for x in inputs if x.requires_grad]
        results.append((out, *torch.autograd.grad(out.square().sum(), wanted)))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("counts", [(0, 4), (4, 0), (0, 0), (1, 1)])
def test_empty_and_single(counts):
    inputs = arguments(*counts)
    out = fused(*inputs)
    assert out.shape == (counts[0], 3, 7)
    if counts[1] == 0:
        assert not out.any()
    for grad in torch.autograd.grad(out.sum(), [x for x in inputs if x.requires_grad]):
        assert grad.isfinite().all()


@pytest.mark.parametrize("count", [1, 8, 13])
def test_linear_by_channel_is_the_layer(count):
    layer = torch.nn.Linear(6, 5).double()
    x, cotangent = torch.randn(count, 6).double().requires_grad_(), torch.randn(count, 5).double()
    out = fused_relation.linear_by_channel(layer, x)
    assert out.T.is_contiguous()
    torch.testing.assert_close(out, layer(x))
    wanted = [x, *layer.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(out, wanted, cotangent),
        torch.autograd.grad(layer(x), wanted, cotangent),
    )


def test_one_key_is_heard_alone():
    inputs = arguments(3, 1)
    torch.testing.assert_close(fused(*inputs), inputs[2].expand(3, -1, -1))


@pytest.mark.parametrize("value", [2 * MIN_GATE, MIN_GATE, 0.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_floor_has_the_gradient_of_the_simple_form(value, dtype):
    simple, ours = (module.to(dtype) for module in pair())
    grads = []
    for module in (simple, ours):
        torch.nn.init.zeros_(module.gate.weight)
        torch.nn.init.constant_(module.gate.bias, value)
        features = torch.linspace(-1, 1, 5 * DIM, dtype=dtype).view(5, DIM)
        regions = make_regions((5,))
        regions = Regions(regions.boxes.to(dtype), (5,), (SIZE,))
        module.zero_grad()
        module(features, regions).square().sum().backward()
        grads.append(module.gate.weight.grad)
    assert grads[0].any() == (value > MIN_GATE)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-12)


def test_far_logits_and_closed_gates_are_finite():
    query, key, value, asking, answering, weight, bias = arguments(dtype=torch.float32)
    with torch.no_grad():
        query *= 300
        bias.fill_(-100.0)
    out = fused(query, key, value, asking, answering, weight, bias)
    blind = torch.einsum("hnm,mhd->nhd", relation_weights(query, key, None), value)
    torch.testing.assert_close(out, blind, rtol=1e-4, atol=1e-5)
    grads = torch.autograd.grad(out.sum(), (query, key, value, weight, bias))
    assert all(g.isfinite().all() for g in grads) and not grads[3].any()


@norms
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_autocast(geometry, norm):
    """bfloat16 changes what enters; geometry, softmax and sums stay float32."""
    simple, ours = (m.float() for m in pair(geometry, norm=norm))
    features, regions = torch.randn(30, DIM), make_regions((18, 12))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = ours(features, regions)
        out.sum().backward()
    expected = simple(features, regions)
    assert (out - expected).norm() / expected.norm() < 0.02
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in ours.parameters())


def test_backward_under_autocast_is_float32():
    inputs = arguments(dtype=torch.float32)
    wanted = [x for x in inputs if x.requires_grad]
    expected = torch.autograd.grad(fused(*inputs).square().sum(), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grads = torch.autograd.grad(fused(*inputs).square().sum(), wanted)
    torch.testing.assert_close(grads, expected)


def test_a_second_derivative_is_refused():
    inputs = arguments()
    (grad,) = torch.autograd.grad(fused(*inputs).square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_boxes_get_no_gradient():
    inputs = list(arguments())
    inputs[3] = inputs[3].requires_grad_()
    fused(*inputs).sum().backward()
    assert inputs[3].grad is None


def test_float32_is_closer_to_the_truth_than_the_simple_form():
    simple, ours = pair()
    torch.nn.init.normal_(simple.gate.weight, std=0.1)
    ours.load_state_dict(simple.state_dict())
    regions = make_regions((60,))
    features = torch.randn(60, DIM, dtype=torch.float64)
    wide = Regions(regions.boxes.double(), regions.splits, regions.image_sizes)
    with torch.no_grad():
        truth = simple(features, wide) - features
        errors = [
            (m.float()(features.float(), regions) - features - truth).norm() / truth.norm()
            for m in (ours, simple)
        ]
    assert errors[0] < 1e-5 and errors[0] < errors[1]


@pytest.mark.parametrize("backward", [False, True])
def test_memory_is_linear_in_the_number_of_regions(backward):
    def peak(n):
        module = ObjectRelation(DIM, num_heads=4, init="xavier")
        features = torch.randn(n, DIM, requires_grad=True)
        regions = Regions.from_boxes([random_boxes(n)], [SIZE])

        def run():
            with torch.set_grad_enabled(backward):
                out = module(features, regions)
            return torch.autograd.grad(out.sum(), list(module.parameters())) if backward else out

        return peak_bytes(run)

    small, large = peak(300), peak(600)
    assert large < 2.05 * small
    assert large < 4 * 600 * 600 * 4  # less than one number for each head and pair


@pytest.mark.parametrize("normalize_by", ["query", "key"])
@pytest.mark.parametrize("geometry", PAIR_GEOMETRIES)
def test_float32_gradients_are_as_good_as_those_of_the_simple_form(geometry, normalize_by):
    """The gradient of W_G jumps where a gate crosses its floor, and which gates do so in float32 is
    chance in both forms. So biases are such that no gate is nearer to it than 1e-3, ten times what
    float32 is wrong by: phases of up to 691 rad, rounded by 3e-5, times some 0.1 x 64^0.5. Both
    forms round the same quantities, in another order: 4 times.
    """
    form = dict(geometry=geometry, normalize_by=normalize_by)
    inputs = list(arguments(40, 40, heads=4, dtype=torch.float32))
    corner = 1000 * torch.rand(40, 2)
    sides = 300 ** torch.rand(40, 2) - 1
    inputs[3] = inputs[4] = torch.cat([corner, corner + sides], dim=1)
    with torch.no_grad():
        inputs[5].mul_(0.1)
        wide = inputs[3].double()
        raw = pair_embedding(wide, wide, **form) @ inputs[5].double().T  # (40, 40, H), no bias
        for head, gates in enumerate(raw.flatten(0, 1).sort(dim=0).values.T):
            gaps, middle = gates.diff(), gates[:-1].sub(gates.median()).abs() < 0.2
            widest = (gaps * middle).argmax()
            assert gaps[widest] > 2e-3
            inputs[6][head] = -(gates[widest] + gates[widest + 1]) / 2 + MIN_GATE

    def plain(query, key, value, asking, answering, weight, bias, **form):
        bias_of = position_bias if geometry == "position" else log_gate
        gates = bias_of(pair_embedding(asking, answering, **form), weight, bias)
        return torch.einsum("hnm,mhd->nhd", relation_weights(query, key, gates), value)

    def gradients(function, dtype):
        typed = [x.detach().to(dtype).requires_grad_() for x in inputs]
        out = function(*typed, **form)
        cotangent = torch.linspace(0, 99, out.numel()).sin().view_as(out).to(dtype)
        wanted = [*typed[:3], *typed[5:]]
        return [x.double() for x in torch.autograd.grad(out, wanted, cotangent)]

    exact = gradients(plain, torch.float64)
    ours, simple = (gradients(f, torch.float32) for f in (fused, plain))
    for mine, other, true in zip(ours, simple, exact, strict=True):
        assert (mine - true).norm() <= 4 * (other - true).norm()
        assert (other - true).norm() < 1e-4 * true.norm()  # no gate is on the wrong side
