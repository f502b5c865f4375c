"""Position relation against its literal reference: values, gradients, memory, strange boxes."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_convert

from benchmarks.measure import peak_bytes
from relation_heads.layers import PositionRelation
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.object_relation import fused as fused_relation
from tests.layers.reference_position_relation import (
    channels,
    reference_attention,
    reference_bias,
)

HEADS = 3


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks, the last of them smaller."""
    monkeypatch.setattr(fused_relation, "NUMBERS_PER_KEY", 150)


def detr_boxes(*shape: int, seed: int = 0) -> torch.Tensor:
    """(*shape, 4) cx, cy, w, h in units of the image, float64."""
    generator = torch.Generator().manual_seed(seed)
    return 0.9 * torch.rand(*shape, 4, generator=generator, dtype=torch.float64) + 0.01


def corners(boxes: torch.Tensor) -> torch.Tensor:
    return box_convert(boxes, "cxcywh", "xyxy")


def make(num_heads: int = HEADS) -> tuple[PositionRelation, torch.Tensor, torch.Tensor]:
    """A float64 relation, and its parameters in the released order of channels."""
    weight = torch.randn(num_heads, 64, dtype=torch.float64)
    bias = torch.randn(num_heads, dtype=torch.float64)
    relation = PositionRelation(num_heads).double()
    ours = weight.view(num_heads, 4, 8, 2).mT.reshape(num_heads, 64)  # as its docstring says
    relation.gate.load_state_dict({"weight": ours, "bias": bias})
    return relation, weight.requires_grad_(), bias.requires_grad_()


def in_released_order(weight: torch.Tensor) -> torch.Tensor:
    return weight.view(len(weight), 4, 2, 8).mT.reshape(len(weight), 64)


def test_the_bias_and_its_gradients_equal_the_reference():
    relation, weight, bias = make()
    queries, keys = detr_boxes(2, 11), detr_boxes(2, 7, seed=1)
    queries[:, 3] = keys[:, 3]  # the same place
    expected = torch.stack(
        [reference_bias(q, k, weight, bias) for q, k in zip(queries, keys, strict=True)]
    )
    out = relation(corners(queries), corners(keys))
    assert out.shape == (2, HEADS, 11, 7)
    assert (out == 0).any() and (out > 0).any()
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(out)
    ours = torch.autograd.grad(out, list(relation.parameters()), cotangent)
    theirs = torch.autograd.grad(expected, [weight, bias], cotangent)
    torch.testing.assert_close(in_released_order(ours[0]), theirs[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-10, atol=1e-10)


def test_attention_and_its_gradients_equal_the_reference():
    relation, weight, bias = make()
    boxes = detr_boxes(2, 9), detr_boxes(2, 6, seed=1)
    q, k, v = (
        torch.randn(2, HEADS, n, d, dtype=torch.float64).requires_grad_()
        for n, d in ((9, 5), (6, 5), (6, 4))
    )
    out = relation.attend(q, k, v, *map(corners, boxes))
    expected = torch.stack(
        [
            reference_attention(q[b], k[b], v[b], reference_bias(*pair, weight, bias))
            for b, pair in enumerate(zip(*boxes, strict=True))
        ]
    )
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(out)
    ours = torch.autograd.grad(out, [q, k, v, *relation.parameters()], cotangent)
    theirs = torch.autograd.grad(expected, [q, k, v, weight, bias], cotangent)
    for name, mine, other in zip("qkvwb", ours, theirs, strict=True):
        mine = in_released_order(mine) if name == "w" else mine
        assert mine.any(), name
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10, msg=name)


def test_attend_is_torchs_attention_with_the_bias():
    relation = make()[0].float()
    boxes = corners(detr_boxes(2, 20)).float()
    q, k, v = torch.randn(3, 2, HEADS, 20, 4)
    expected = F.scaled_dot_product_attention(q, k, v, relation(boxes, boxes))
    torch.testing.assert_close(relation.attend(q, k, v, boxes, boxes), expected)


def test_what_the_bias_does_not_see():
    """Where boxes stand, how large an image is, and on which side: all but the released 1e-5."""
    relation = make()[0]
    boxes = corners(0.5 * detr_boxes(1, 8))
    expected = relation(boxes, boxes)
    moved = boxes + torch.tensor([0.3, 0.1, 0.3, 0.1])
    flipped = (1 - boxes)[..., [2, 1, 0, 3]]
    flipped[..., [1, 3]] = boxes[..., [1, 3]]
    for other in (moved, flipped):
        torch.testing.assert_close(relation(other, other), expected, rtol=1e-9, atol=1e-9)
    larger = relation(1e6 * boxes, 1e6 * boxes)
    torch.testing.assert_close(relation(2e6 * boxes, 2e6 * boxes), larger, rtol=1e-4, atol=1e-4)
    order = torch.randperm(8)
    mixed = relation(boxes[:, order], boxes)
    torch.testing.assert_close(mixed, expected[:, :, order])


def test_the_two_directions_of_a_pair():
    """Between boxes of one size distances are the same both ways, and log(w_n / w_m) is 0."""
    relation = make()[0]
    boxes = detr_boxes(1, 6)
    one_size = boxes.clone()
    one_size[..., 2:] = 0.25
    out = relation(corners(one_size), corners(one_size))
    torch.testing.assert_close(out, out.mT, rtol=1e-9, atol=1e-9)
    out = relation(corners(boxes), corners(boxes))
    assert (out - out.mT).abs().max() > 0.1
    n, m = boxes[0, :2].tolist()
    forth, back = channels(n, m), channels(m, n)
    assert forth[32::2] == pytest.approx([-x for x in back[32::2]])  # sines of the sizes
    assert forth[33::2] == pytest.approx(back[33::2])


STRANGE = torch.tensor(
    [
        [0.5, 0.5, 0.5, 0.5],  # a point
        [0.2, 0.1, 0.2, 0.9],  # no width
        [0.7, 0.6, 0.4, 0.3],  # corners the wrong way round
        [-1e10, -1e10, 1e10, 1e10],
        [1e9, 1e9, 1e9, 1e9],
        [0.0, 0.0, 1.0, 1.0],
    ]
)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_strange_boxes_are_finite(dtype):
    relation = PositionRelation(HEADS)
    boxes = STRANGE[None].to(dtype)
    boxes = boxes.clamp(-6e4, 6e4)  # infinite in float16
    out = relation(boxes, boxes)
    assert out.dtype == torch.promote_types(dtype, torch.float32)
    q, k, v = torch.randn(3, 1, HEADS, 6, 4, requires_grad=True)
    heard = relation.attend(q, k, v, boxes, boxes)
    assert out.isfinite().all() and heard.isfinite().all()
    for result in (out, heard):
        gradients = torch.autograd.grad(result.sum(), list(relation.parameters()))
        assert all(g.isfinite().all() for g in gradients)


def test_huge_boxes_are_finite():
    boxes = STRANGE[None]
    assert PositionRelation(HEADS)(1e20 * boxes, 1e20 * boxes).isfinite().all()


@pytest.mark.parametrize("counts", [(0, 3), (3, 0), (0, 0), (1, 1)])
def test_empty_and_single(counts):
    relation = PositionRelation(HEADS)
    queries, keys = (torch.rand(2, n, 4) for n in counts)
    out = relation(queries, keys)
    assert out.shape == (2, HEADS, *counts)
    q, k, v = (torch.randn(2, HEADS, n, 4) for n in (counts[0], counts[1], counts[1]))
    heard = relation.attend(q, k, v, queries, keys)
    assert heard.shape == q.shape and heard.isfinite().all()
    assert counts[1] or not heard.any()
    for result in (out, heard):
        gradients = torch.autograd.grad(result.sum(), list(relation.parameters()))
        assert all(g.isfinite().all() for g in gradients)


def test_a_mask_may_be_written_into_the_bias():
    """As DETR does with queries for denoising."""
    relation, boxes = PositionRelation(HEADS), torch.rand(1, 5, 4)
    expected = torch.autograd.grad(relation(boxes, boxes)[..., :3].sum(), relation.gate.bias)
    masked = relation(boxes, boxes)
    masked[..., 3:] = -torch.inf
    (gradient,) = torch.autograd.grad(masked[..., :3].sum(), relation.gate.bias)
    torch.testing.assert_close(gradient, expected[0])


def test_autocast_and_no_gradient_of_boxes():
    relation, boxes = PositionRelation(HEADS), torch.rand(1, 5, 4, requires_grad=True)
    expected = relation(boxes, boxes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(relation(boxes, boxes), expected)
    expected.sum().backward()
    assert boxes.grad is None and relation.gate.weight.grad.any()


class Both(torch.nn.Module):
    """The bias, and what is heard with it."""

    def __init__(self):
        super().__init__()
        self.relation = PositionRelation(HEADS)

    def forward(self, query, key, value, *boxes):
        return self.relation(*boxes), self.relation.attend(query, key, value, *boxes)


def both_inputs(queries, keys):
    """What `Both` gets for so many boxes."""
    heads = (torch.randn(2, HEADS, n, 4) for n in (queries, keys, keys))
    return *heads, *(corners(detr_boxes(2, n, seed=n)).float() for n in (queries, keys))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_serves_other_numbers():
    both = Both().requires_grad_(False)
    traced = torch.jit.trace(both, both_inputs(5, 4))
    for counts in ((9, 3), (2, 2)):
        inputs = both_inputs(*counts)
        torch.testing.assert_close(traced(*inputs), both(*inputs), rtol=1e-4, atol=1e-5)


def test_it_compiles_to_one_graph():
    torch._dynamo.reset()
    both = Both().requires_grad_(False)
    compiled = torch.compile(both, fullgraph=True, backend="eager", dynamic=True)
    for counts in ((9, 3), (5, 4)):
        inputs = both_inputs(*counts)
        torch.testing.assert_close(compiled(*inputs), both(*inputs), rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_size():
    assert sum(p.numel() for p in PositionRelation().parameters()) == 520


def test_1500_boxes_take_a_tenth_of_the_memory_of_the_plain_form(monkeypatch):
    """Forward and backward; what is plain is the released order, of the bias alone."""
    monkeypatch.undo()
    count, heads, dim = 1500, 8, 32
    boxes = corners(detr_boxes(1, count)).float()
    relation = PositionRelation(heads)
    q, k, v = torch.randn(3, 1, heads, count, dim, requires_grad=True)

    def plain_bias():
        with torch.no_grad():
            xy, wh = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
            delta = (xy[:, :, None] - xy[:, None]).abs() / (wh[:, :, None] + 1e-5)
            ratio = (wh[:, :, None] + 1e-5) / (wh[:, None] + 1e-5)
            values = torch.cat([(delta + 1).log(), ratio.log()], dim=-1)
            z = 100 / 10000 ** (torch.arange(8) / 8)
            phases = values[..., None] * z
            e = torch.stack([phases.sin(), phases.cos()], dim=3).flatten(3)  # (1, N, N, 64)
        return relation.gate(e).relu().permute(0, 3, 1, 2)

    def peak(function):
        leaves = [q, k, v, *relation.parameters()]
        return peak_bytes(lambda: torch.autograd.grad(function().sum(), leaves, allow_unused=True))

    of_plain = peak(plain_bias)
    of_bias = peak(lambda: relation(boxes, boxes))
    of_attention = peak(lambda: relation.attend(q, k, v, boxes, boxes))
    assert of_bias < of_plain / 12
    assert of_attention < of_plain / 30


def test_the_memory_of_attend_is_linear(monkeypatch):
    monkeypatch.undo()

    def peak(count):
        relation, boxes = PositionRelation(4), torch.rand(1, count, 4)
        q, k, v = torch.randn(3, 1, 4, count, 8, requires_grad=True)
        leaves = [q, k, v, *relation.parameters()]

        def run():
            out = relation.attend(q, k, v, boxes, boxes)
            return torch.autograd.grad(out.sum(), leaves)

        return peak_bytes(run)

    assert peak(600) < 2.05 * peak(300)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_boxes": (1, 5, 5)}, r"query_boxes must be \(1, N, 4\), got \(1, 5, 5\)"),
        ({"query_boxes": (0, 5, 4)}, r"query_boxes must be \(B, N, 4\), got \(0, 5, 4\)"),
        ({"key_boxes": (2, 6, 4)}, r"key_boxes must be \(1, N, 4\), got \(2, 6, 4\)"),
        ({"query": (1, HEADS, 6, 4)}, r"query must be \(1, 3, 5, d\), got \(1, 3, 6, 4\)"),
        ({"value": (1, 2, 6, 4)}, r"value must be \(1, 3, 6, d\), got \(1, 2, 6, 4\)"),
    ],
)
def test_wrong_shapes_are_named(change, message):
    shapes = {
        "query": (1, HEADS, 5, 4),
        "key": (1, HEADS, 6, 4),
        "value": (1, HEADS, 6, 4),
        "query_boxes": (1, 5, 4),
        "key_boxes": (1, 6, 4),
    }
    inputs = {name: torch.rand(shape) for name, shape in (shapes | change).items()}
    with pytest.raises(ValueError, match=message):
        PositionRelation(HEADS).attend(**inputs)


def test_wrong_heads_are_named():
    with pytest.raises(ArgumentError) as caught:
        PositionRelation(0)
    assert [(w.argument, w.value) for w in caught.value.wrong] == [("num_heads", 0)]
