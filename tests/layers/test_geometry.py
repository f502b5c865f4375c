import math

import pytest
import torch

from relation_heads.layers import (
    box_embedding,
    pair_embedding,
    relative_geometry,
    sinusoidal_embedding,
)
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.geometry import PAIR_GEOMETRIES, aimed_gates, polar

# Three boxes worked out by hand, and the values the released formulas give for them.
BOXES = torch.tensor([[10, 20, 109, 219], [50, 60, 149, 159], [300, 40, 331, 71.0]])


def test_golden_deltas_of_the_released_form():
    deltas = relative_geometry(BOXES, BOXES)
    for n, m, expected in (
        (0, 1, (-0.916291, -2.995732, 0.0, 0.693147)),
        (1, 0, (-0.916291, -2.302585, 0.0, -0.693147)),
        (2, 0, (2.079442, 0.693147, -1.139434, -1.832581)),
        (1, 1, (-6.907755, -6.907755, 0.0, 0.0)),
    ):
        torch.testing.assert_close(deltas[n, m], torch.tensor(expected), atol=2e-6, rtol=0)


def test_golden_deltas_of_the_papers_text():
    deltas = relative_geometry(BOXES, BOXES, normalize_by="key")
    assert deltas[0, 2, 0].item() == pytest.approx(2.079442, abs=2e-6)
    assert deltas[2, 0, 0].item() == pytest.approx(0.940007, abs=2e-6)


def test_golden_embedding():
    embedding = pair_embedding(BOXES.double(), BOXES.double())
    expected = torch.tensor([0.499383, -0.807881, 0.553238, -0.55472], dtype=torch.float64)
    torch.testing.assert_close(embedding[0, 1, :4], expected, atol=5e-6, rtol=0)
    assert embedding[0, 1].sum().item() == pytest.approx(8.149656, abs=2e-6)
    assert embedding[1, 0].sum().item() == pytest.approx(7.424960, abs=2e-6)
    assert embedding.sum().item() == pytest.approx(66.879617, abs=5e-6)


def test_every_embedding_has_the_same_norm():
    norms = pair_embedding(BOXES, BOXES).square().sum(-1)
    torch.testing.assert_close(norms, torch.full((3, 3), 32.0))


def test_embedding_layout_is_sines_then_cosines_of_each_value():
    values = torch.tensor([[0.1, -0.2]])
    wavelengths = 1000.0 ** (torch.arange(3) / 3)
    z = 5 * values[0, :, None] / wavelengths
    expected = torch.cat([z[0].sin(), z[0].cos(), z[1].sin(), z[1].cos()])
    torch.testing.assert_close(sinusoidal_embedding(values, 3, scale=5.0)[0], expected)


def test_every_second_head_is_aimed():
    query, key = BOXES[:1].double(), BOXES[1:].double()
    gates = pair_embedding(query, key, geometry="signed")[0] @ aimed_gates(9).double().T
    for m, (x1, y1, x2, y2) in enumerate(key.tolist()):
        width, height = 100, 200  # of the query, whose centre is (59.5, 119.5)
        s = []
        for t in (((x1 + x2) / 2 - 59.5) / width, ((y1 + y2) / 2 - 119.5) / height):
            d = math.copysign(math.log(1 + 4 * abs(t)), t)
            s.append(math.sin(100 * d / 1000**0.75) + math.sin(100 * d / 1000**0.875))
        for head, angle in ((1, 0), (3, math.pi / 2), (5, math.pi), (7, 1.5 * math.pi)):
            expected = math.cos(angle) * s[0] + math.sin(angle) * s[1]
            assert gates[m, head].item() == pytest.approx(expected, abs=1e-5)
    assert (gates[:, ::2] == 0).all()
    assert (aimed_gates(1) == 0).all()  # a single head hears all sides


def flipped(boxes, width=400.0):
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)


@pytest.mark.parametrize("geometry", PAIR_GEOMETRIES)
def test_translation_changes_nothing(geometry):
    moved = BOXES.double() + torch.tensor([37.0, -11.0, 37.0, -11.0])
    torch.testing.assert_close(
        relative_geometry(moved, moved, geometry=geometry),
        relative_geometry(BOXES.double(), BOXES.double(), geometry=geometry),
    )


def test_only_the_signed_form_can_see_a_flip():
    plain, mirror = BOXES.double(), flipped(BOXES.double())
    for geometry in ("relation", "position"):
        torch.testing.assert_close(
            relative_geometry(plain, plain, geometry=geometry),
            relative_geometry(mirror, mirror, geometry=geometry),
        )
    left = relative_geometry(plain, plain, geometry="signed")
    right = relative_geometry(mirror, mirror, geometry="signed")
    torch.testing.assert_close(left[..., 0], -right[..., 0])  # x changes its sign
    torch.testing.assert_close(left[..., 1:], right[..., 1:])
    assert left[0, 1, 0] > 0  # box 1 lies to the right of box 0


def test_degenerate_boxes_stay_finite():
    boxes = torch.tensor([[800, 10, 800, 60], [800, 10, 800, 10], [5, 5, 4, 4.0], [1e5, 0, 2e5, 9]])
    for geometry in PAIR_GEOMETRIES:
        assert pair_embedding(boxes, boxes, geometry=geometry).isfinite().all()
    assert box_embedding(boxes, 32).isfinite().all()


def test_float32_is_as_good_as_float64_for_large_images():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(200, 2, 2, generator=generator, dtype=torch.float64) * 1333
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1).float()
    error = (pair_embedding(boxes, boxes) - pair_embedding(boxes.double(), boxes.double())).abs()
    # Differences of rounded centres, the usual order, are off by up to 0.1 in the fastest channel.
    assert error.max() < 2e-3
    assert error.square().mean().sqrt() < 2e-5


def test_half_precision_boxes_are_widened():
    assert pair_embedding(BOXES.bfloat16(), BOXES.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "value"), [("normalize_by", "both"), ("geometry", "unary")], ids=str
)
def test_an_unknown_form_is_named(name, value):
    with pytest.raises(ArgumentError) as caught:
        relative_geometry(BOXES, BOXES, **{name: value})
    assert [(w.argument, w.value) for w in caught.value.wrong] == [(name, value)]


def test_polar():
    offsets = torch.tensor([[3.0, 4.0], [-1.0, 0.0], [0.0, -2.0], [-1.0, -1.0], [0.0, 0.0]])
    pi = math.pi
    expected = [(5.0, math.atan2(4, 3)), (1.0, pi), (2.0, -pi / 2), (2**0.5, -3 * pi / 4), (0, 0)]
    torch.testing.assert_close(polar(offsets), torch.tensor(expected))
    expected = [(5.0, math.atan(4 / 3)), (1.0, 0.0), (2.0, -pi / 2), (2**0.5, pi / 4), (0, 0)]
    torch.testing.assert_close(polar(offsets, "arctan"), torch.tensor(expected))
    with pytest.raises(ArgumentError) as caught:
        polar(offsets, "tan")
    assert [(w.argument, w.value) for w in caught.value.wrong] == [("angle", "tan")]


def test_leading_dimensions_are_groups():
    grouped = pair_embedding(BOXES[:, None], BOXES[:, None])  # every box with itself
    expected = pair_embedding(BOXES, BOXES).diagonal(dim1=0, dim2=1).T
    torch.testing.assert_close(grouped[:, 0, 0], expected, rtol=0, atol=0)
