"""Reasoning-RCNN's layer against its reference, and what must hold whatever its numbers are."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from relation_heads.layers import AdaptiveReasoning, Regions, semantic_pool
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.reasoning_rcnn import ImageQuery
from tests.layers import reference_reasoning_rcnn as reference
from tests.layers.tracing import assert_traces

CLASSES, DIM, E, STRIDE = 5, 7, 6, 8
MAPS = ((3, (8, 12)), (2, (4, 6)), (2, (2, 3)))  # channels and cells, finest first
SIZES = ((64, 96), (41, 96), (64, 50))  # pixels; the maps are as large as the first image
RESIZED = {"finest": 0, "second": 1}


def edges(dtype=torch.float64):
    """(C, C) without a diagonal; class 3 hears nobody."""
    matrix = torch.rand(CLASSES, CLASSES, generator=torch.Generator().manual_seed(3), dtype=dtype)
    matrix = matrix * (matrix > 0.4)
    matrix[3] = 0
    return matrix - torch.diag(matrix.diagonal())


def make(**options):
    torch.manual_seed(0)
    options = {"channels": E, "squeeze_channels": 4, "edges": edges(), "out_norm": "", **options}
    module = AdaptiveReasoning(DIM, sum(c for c, _ in MAPS), **options).double()
    for parameter in module.parameters():  # biases as after training
        nn.init.normal_(parameter, std=0.5)
    return module


def make_inputs(counts=(4, 0, 2)):
    generator = torch.Generator().manual_seed(1)

    def noise(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    regions = Regions.from_boxes([torch.rand(n, 4) for n in counts], SIZES[: len(counts)])
    weight, bias = noise(CLASSES + 1, DIM), noise(CLASSES + 1)
    maps = [noise(len(counts), channels, *cells) for channels, cells in MAPS]
    return noise(sum(counts), CLASSES + 1), semantic_pool(weight, bias), maps, regions


def run(module, logits, pool, maps, regions, resized_to=0):
    stride = STRIDE * 2**resized_to
    a = module.attention(pool, maps, regions.image_sizes, stride, resized_to)
    return module(logits, pool, a, regions)


def literal(module, logits, pool, maps, regions, resized_to=0):
    """The same by the reference, image by image."""
    weight = dict(module.named_parameters())
    adjacency = torch.zeros(CLASSES + 1, CLASSES + 1, dtype=torch.float64)
    adjacency[:-1, :-1] = torch.eye(CLASSES)
    if module.edges is not None:
        adjacency[:-1, :-1] += edges()
    found = []
    for image, (s, size) in enumerate(zip(regions.split(logits), regions.image_sizes, strict=True)):
        one = [m[image] for m in maps]
        z = reference.query(weight, one, size, STRIDE * 2**resized_to, resized_to)
        a = reference.attention(z, pool)
        if len(s):
            found.append(reference.enhanced(weight, s, pool, a, adjacency))
    h = torch.cat(found)
    if "norm.weight" not in weight:
        return h
    return reference.layer_norm(weight, h * (CLASSES + 1), module.norm.eps)


OPTIONS = [{}, {"edges": None}, {"out_norm": "LN"}]


@pytest.mark.parametrize("resized_to", RESIZED.values(), ids=RESIZED)
@pytest.mark.parametrize("options", OPTIONS, ids=["graph", "no graph", "LayerNorm"])
def test_equals_the_slow_reference_with_its_gradients(options, resized_to):
    module = make(**options)
    logits, pool, maps, regions = make_inputs()
    found = []
    for compute in (run, literal):
        leaves = [logits.clone().requires_grad_(), *(m.clone().requires_grad_() for m in maps)]
        h = compute(module, leaves[0], pool, leaves[1:], regions, resized_to)
        inputs = [*leaves, *module.parameters()]
        loss = (h * torch.linspace(-1, 2, h.numel(), dtype=h.dtype).view_as(h)).sum()
        found.append([h, *torch.autograd.grad(loss, inputs)])
    assert found[0][0].std() > 1e-2
    for actual, expected in zip(*found, strict=True):
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_both_orders_agree_with_many_classes():
    """Ours, and the released one as dense products: for 1001 scores and two images."""
    classes, dim, channels, counts = 1000, 16, 8, (6, 5)
    generator = torch.Generator().manual_seed(0)

    def noise(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    dense = noise(classes, classes).clamp(min=3.0) - 3.0  # 0.1 % are not 0
    module = AdaptiveReasoning(dim, 1, channels=channels, edges=dense, out_norm="").double()
    pool, logits = noise(classes + 1, dim + 1), noise(sum(counts), classes + 1)
    a = noise(2, classes + 1).softmax(dim=1)
    regions = Regions.from_boxes([torch.rand(n, 4) for n in counts], SIZES[:2])
    whole = torch.zeros(classes + 1, classes + 1, dtype=torch.float64)
    whole[:-1, :-1] = dense + torch.eye(classes)
    with torch.no_grad():
        expected = torch.cat(
            [
                s.softmax(dim=1) @ module.transform(one[:, None] * (whole @ pool)).relu()
                for s, one in zip(logits.split(counts), a, strict=True)
            ]
        )
        actual = module(logits, pool, a, regions)
    assert actual.abs().max() > 1e-5
    torch.testing.assert_close(actual / actual.std(), expected / actual.std(), rtol=0, atol=1e-10)


def test_parameters_at_the_released_sizes():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    ours = AdaptiveReasoning(1024, 4 * 256)
    assert count(ours.query.squeeze) == 589_888
    assert count(ours.query.expand) == 66_625
    assert count(ours.transform) == 262_656
    assert count(AdaptiveReasoning(1024, 4 * 256, out_norm="")) == 919_169
    assert f"{count(ours):,} parameters" in AdaptiveReasoning.__doc__


def test_the_pool_gets_no_gradient():
    weight, bias = torch.randn(6, DIM, requires_grad=True), torch.randn(6, requires_grad=True)
    pool = semantic_pool(weight, bias)
    assert not pool.requires_grad
    assert torch.equal(pool, torch.cat([weight.detach(), bias.detach()[:, None]], dim=1))


def test_the_background_hears_and_tells_nothing():
    module = make()
    logits, pool, maps, regions = make_inputs()
    expected = run(module, logits, pool, maps, regions)
    logits[:, -1] = 100.0  # h is what the background gives: the bias alone
    alone = run(module, logits, pool, maps, regions)
    torch.testing.assert_close(alone, module.transform.bias.relu().expand_as(alone))
    assert not torch.allclose(alone, expected)
    heard = module.classes(pool)
    pool[-1] += 1.0
    assert torch.equal(module.classes(pool), heard)


def test_edges_move_what_neighbours_know():
    module = make()
    _, pool, _, _ = make_inputs()
    before = module.classes(pool)
    changed = pool.clone()
    changed[2] += 1.0
    moved = (module.classes(changed) != before).any(dim=1)
    hears = edges()[:, 2] != 0
    assert hears.any() and not hears.all()
    assert moved.tolist() == [*(hears | (torch.arange(CLASSES) == 2)).tolist(), False]


def test_batch_equals_image_by_image():
    """Another image in the batch, and the padding that it makes, changes nothing."""
    module = make(out_norm="LN")
    logits, pool, maps, regions = make_inputs((4, 3, 2))
    together = run(module, logits, pool, maps, regions)
    for image, (s, boxes) in enumerate(
        zip(regions.split(logits), regions.split(regions.boxes), strict=True)
    ):
        one = Regions.from_boxes([boxes], [regions.image_sizes[image]])
        alone = run(module, s, pool, [m[image : image + 1] for m in maps], one)
        torch.testing.assert_close(regions.split(together)[image], alone)


def test_the_padding_of_an_image_does_not_count():
    torch.manual_seed(0)
    query = ImageQuery(3, 4, squeeze_channels=5).double()
    nn.init.ones_(query.expand.bias)  # so that the ReLU lets something through
    image_map = torch.randn(1, 3, 8, 12, dtype=torch.float64)
    expected = query([image_map], [(29, 60)], STRIDE)
    # Cells of the convolution begin at 0, 16, ... pixels: those from 32 and 64 on are outside, and
    # the last ones inside read up to cells 3 and 7 of the map.
    other = image_map.clone()
    other[:, :, 4:], other[..., 8:] = torch.nan, torch.nan
    torch.testing.assert_close(query([other], [(29, 60)], STRIDE), expected)
    other = image_map.clone()
    other[..., 7] += 1.0
    assert not torch.allclose(query([other], [(29, 60)], STRIDE), expected)


def test_nothing_at_all():
    module = make(out_norm="LN")
    logits, pool, maps, regions = make_inputs((0, 0))
    h = run(module, logits, pool, maps, regions)
    h.sum().backward()
    assert h.shape == (0, E)


def test_another_image_is_never_seen_even_when_it_is_not_finite():
    module = make()
    logits, pool, maps, regions = make_inputs((4, 3))
    expected = run(module, logits, pool, maps, regions)[:4]
    logits[4:] = torch.nan
    for m in maps:
        m[1] = torch.inf
    assert torch.equal(run(module, logits, pool, maps, regions)[:4], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_finite_and_close(dtype):
    module = make(out_norm="LN").float()
    logits, pool, maps, regions = make_inputs()
    inputs = logits.float(), pool.float() * 1e-2, [m.float() for m in maps], regions
    expected = run(module, *inputs)
    with torch.autocast("cpu", dtype=dtype):
        actual = run(module, *inputs)
    assert actual.dtype == torch.float32
    assert (actual - expected).norm() < 0.03 * expected.norm()
    actual.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_layer_norm_works_however_small_h_is():
    module = make(out_norm="LN")
    nn.init.ones_(module.norm.weight), nn.init.zeros_(module.norm.bias)
    nn.init.zeros_(module.transform.bias)
    logits, pool, maps, regions = make_inputs()
    for scale in (1.0, 1e-2):
        assert 0.5 < run(module, logits, pool * scale, maps, regions).std() < 1.5


def test_h_starts_far_smaller_than_the_features():
    """As the module says, at the released sizes with 80 classes."""
    torch.manual_seed(0)
    module = AdaptiveReasoning(1024, 8, out_norm="")
    pool = semantic_pool(torch.randn(81, 1024) * 0.01, torch.zeros(81))
    regions = Regions.from_boxes([torch.rand(50, 4)], [(64, 64)])
    f = torch.randn(50, 1024).relu()
    logits = f @ pool[:, :-1].T
    a = module.attention(pool, [torch.randn(1, 8, 8, 8)], [(64, 64)], 8)
    ratio = module(logits, pool, a, regions).std() / f.std()
    assert 3e-6 < ratio < 3e-5


def test_copies_and_traces():
    module = make().requires_grad_(False)
    logits, pool, maps, regions = make_inputs((4,))

    class OfOneImage(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, logits, boxes, *maps):
            one = Regions.from_boxes([boxes], [(64, 96)])
            return run(self.module, logits, pool, maps, one)

    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(
            run(other, logits, pool, maps, regions), run(module, logits, pool, maps, regions)
        )
    larger = [torch.randn(1, m.shape[1], 2 * m.shape[2], 3 * m.shape[3]).double() for m in maps]
    more = torch.randn(9, CLASSES + 1).double()
    assert_traces(
        OfOneImage(),
        (logits, regions.boxes, *maps),
        (more, torch.rand(9, 4), *larger),
    )


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("dim", 0),
        ("map_channels", 0),
        ("channels", -1),
        ("squeeze_channels", 0),
        ("out_norm", "BN"),
    ],
)
def test_wrong_arguments_are_named(argument, value):
    arguments = {"dim": DIM, "map_channels": 3, argument: value}
    with pytest.raises(ArgumentError) as caught:
        AdaptiveReasoning(**arguments)
    assert [(w.argument, w.value) for w in caught.value.wrong] == [(argument, value)]
