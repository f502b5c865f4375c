from itertools import product

import pytest
import torch

from relation_heads.layers.geometry import PAIR_GEOMETRIES, log_gate, pair_embedding
from relation_heads.layers.separable_gate import (
    MIN_GATE,
    gate,
    key_factors,
    offset_channels,
    offset_weight,
    query_factors,
    separable_log_gate,
)
from tests.layers.test_object_relation import random_boxes

FORMS = list(product(PAIR_GEOMETRIES, ("query", "key")))
forms = pytest.mark.parametrize(("geometry", "normalize_by"), FORMS)
# Those of a gate: "position" takes no logarithm, which would be steep near the floor.
gates = pytest.mark.parametrize(
    ("geometry", "normalize_by"), [form for form in FORMS if form[0] != "position"]
)


def groups(*counts: int, seed: int = 0) -> torch.Tensor:
    """(G, n, 4) float64 boxes; the first two of a group stand in the same place."""
    boxes = torch.stack([random_boxes(counts[1], seed + g) for g in range(counts[0])]).double()
    if counts[1] > 1:
        boxes[:, 1] = boxes[:, 0]
    return boxes


def parameters(heads: int = 3, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [
        torch.randn(heads, 64, dtype=dtype).requires_grad_(),
        torch.randn(heads, dtype=dtype).requires_grad_(),
    ]


def raw_gate(queries, keys, weight, bias, **form):
    """w_G before its floor."""
    return gate(
        offset_channels(queries, keys, **form),
        offset_weight(weight),
        query_factors(key_factors(queries, form["geometry"]), weight, bias),
        key_factors(keys, form["geometry"]),
    )


@forms
def test_equals_the_linear_layer_on_the_embedding(geometry, normalize_by):
    queries, keys, (weight, bias) = groups(2, 5), groups(2, 7, seed=3), parameters()
    form = dict(geometry=geometry, normalize_by=normalize_by)
    raw = raw_gate(queries, keys, weight, bias, **form)
    assert raw.shape == (2, 3, 5, 7)
    for g in range(2):
        expected = pair_embedding(queries[g], keys[g], **form) @ weight.T + bias
        torch.testing.assert_close(raw[g], expected.permute(2, 0, 1), rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("std", [0.125, 0.01])  # as "xavier", about, and as released
@forms
def test_in_float32_only_gates_beside_the_floor_change_sides(geometry, normalize_by, std):
    """Errors are in lengths of the rows of W_G. In both forms they are what is left of rounded
    phases, whatever the boxes; sums of rounded differences of corners have some 50 times as much.
    """
    form = dict(geometry=geometry, normalize_by=normalize_by)
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(150, 2, generator=generator) * torch.tensor([1333.0, 800.0])
    half = 2 * 200 ** torch.rand(150, 2, generator=generator)  # sides of 4 to 800 pixels
    boxes = torch.cat([centre - half, centre + half], dim=1)
    weight, bias = std * torch.randn(16, 64, generator=generator), torch.zeros(16)
    length = weight.norm(dim=1)[:, None, None].double()

    separable = raw_gate(boxes[None], boxes[None], weight, bias, **form)[0]
    simple = (pair_embedding(boxes, boxes, **form) @ weight.T).permute(2, 0, 1)
    wide = boxes.double()
    true = (pair_embedding(wide, wide, **form) @ weight.double().T).permute(2, 0, 1)
    for ours in (separable, simple):
        assert ((ours - true).abs() / length).max() < 1e-4
    differ = (separable > MIN_GATE) != (simple > MIN_GATE)  # (16, 150, 150)
    assert differ.sum() <= 1e-5 * differ.numel()
    assert ((true - MIN_GATE).abs() / length)[differ].lt(5e-5).all()


@gates
def test_log_gate_and_its_gradients(geometry, normalize_by):
    boxes, wanted = groups(2, 6), parameters()
    form = dict(geometry=geometry, normalize_by=normalize_by)
    ours = separable_log_gate(boxes, boxes, *wanted, **form)
    plain = torch.stack([log_gate(pair_embedding(b, b, **form), *wanted) for b in boxes])
    torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-11)
    assert (ours > ours.min()).any() and (ours == ours.min()).any()  # both sides of the floor
    cotangent = torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad(ours, wanted, cotangent),
        torch.autograd.grad(plain, wanted, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_float32_is_closer_than_the_embedding():
    """Sizes in float64 cost nothing; their phases are what rounds most in the embedding."""
    boxes, (weight, bias) = groups(4, 40), parameters(8)
    exact = raw_gate(boxes, boxes, weight, bias, geometry="relation", normalize_by="query")
    single = [x.detach().float() for x in (boxes, boxes, weight, bias)]
    boxes = boxes.float().double()  # rounding the boxes is not at issue
    exact = raw_gate(boxes, boxes, weight, bias, geometry="relation", normalize_by="query")
    ours = raw_gate(*single, geometry="relation", normalize_by="query")
    plain = torch.stack(
        [(pair_embedding(b, b) @ single[2].T + single[3]).permute(2, 0, 1) for b in single[0]]
    )
    error = (ours - exact).norm()
    assert error < (plain - exact).norm() and error / exact.norm() < 1e-5


def test_geometry_is_float32_under_autocast_and_for_half_boxes():
    boxes, wanted = groups(1, 9).float(), parameters(dtype=torch.float32)
    expected = separable_log_gate(boxes, boxes, *wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(separable_log_gate(boxes, boxes, *wanted), expected)
    assert separable_log_gate(boxes.half(), boxes.half(), *wanted).dtype == torch.float32


@pytest.mark.parametrize("counts", [(0, 3, 3), (2, 0, 4), (2, 4, 0), (1, 1, 1)])
def test_empty_and_single(counts):
    num_groups, num_queries, num_keys = counts
    queries, keys = torch.rand(num_groups, num_queries, 4), torch.rand(num_groups, num_keys, 4)
    wanted = parameters(dtype=torch.float32)
    out = separable_log_gate(queries, keys, *wanted)
    assert out.shape == (num_groups, 3, num_queries, num_keys)
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), wanted))


def test_only_a_gate_above_the_floor_has_a_gradient():
    boxes, weight = groups(1, 4).float(), torch.zeros(1, 64)
    for value, slope in ((2 * MIN_GATE, 0.5 / MIN_GATE), (MIN_GATE / 2, 0.0)):
        bias = torch.tensor([value], requires_grad=True)
        (grad,) = torch.autograd.grad(separable_log_gate(boxes, boxes, weight, bias).mean(), bias)
        assert grad.item() == pytest.approx(slope)
