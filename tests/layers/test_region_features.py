"""Learned region features against loops over bins and places, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from relation_heads.layers import LearnedRegionFeatures
from relation_heads.layers.region_features import learned
from relation_heads.layers.region_features.samples import grid_around, grid_in

CHANNELS, BINS = 3, 2
IMAGES, SIZES = torch.tensor([0, 0, 2, 2]), torch.tensor([(7, 9), (9, 8), (6, 12)])
SUPPORTS = ["box", "double", "image"]


def make(support="image", **options):
    torch.manual_seed(0)
    options = {"embed_dim": 6, "dim": 5, "inside": 3, "around": 2, **options}
    module = LearnedRegionFeatures(CHANNELS, bins=BINS, support=support, **options).double()
    for parameter in module.parameters():  # logits of order 1 from every part
        torch.nn.init.normal_(parameter, std=0.7)
    return module


def make_inputs():
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(3, CHANNELS, 9, 12, generator=generator, dtype=torch.float64)
    boxes = [[1.2, 0.4, 6.9, 5.0], [3.1, 2.2, 3.5, 2.3], [0, 0, 12, 6], [5.5, 1.5, 7.5, 3.5]]
    return maps, torch.tensor(boxes, dtype=torch.float64)


# ---- the definition ----


def embed(z, channels):
    angles = [z / 1000 ** (2 * i / channels) for i in range(channels // 2)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def cells(low, high, size, points):
    at = [math.floor(low + (i + 0.5) / points * (high - low)) for i in range(points)]
    return sorted({min(max(cell, 0), size - 1) for cell in at})


def seen_from(box, size, module, support):
    """Omega_b as (row, column)."""
    x1, y1, x2, y2 = box
    found = {
        (r, c)
        for r in cells(y1, y2, size[0], module.inside)
        for c in cells(x1, x2, size[1], module.inside)
    }
    if support == "double":
        w, h = x2 - x1, y2 - y1
        wide = (x1 - w / 2, y1 - h / 2, x2 + w / 2, y2 + h / 2)
    if support == "image":
        wide = (0, 0, size[1], size[0])
    if support != "box":
        for r in cells(wide[1], wide[3], size[0], module.around):
            for c in cells(wide[0], wide[2], size[1], module.around):
                if not (r < y2 and r + 1 > y1 and c < x2 and c + 1 > x1):
                    found.add((r, c))
    return sorted(found)


def reference(module, x, box, size, support):
    """(C, bins, bins) of one region of the map x (C, H, W)."""
    channels = module.embed_dim
    weight = {name: p.detach().tolist() for name, p in module.named_parameters()}
    places = seen_from(box, size, module, support)
    e_box = [value for z in box for value in embed(z, channels)]
    shared = [sum(w * e for w, e in zip(row, e_box, strict=True)) for row in weight["box.weight"]]
    found = torch.zeros(x.shape[0], BINS * BINS, dtype=torch.float64)
    for k in range(BINS * BINS):
        rows = weight["bin.weight"][k * module.dim : (k + 1) * module.dim]
        query = [sum(w * s for w, s in zip(row, shared, strict=True)) for row in rows]
        logits = []
        for r, c in places:
            e_place = embed(c + 0.5, channels) + embed(r + 0.5, channels)
            key = [
                sum(w * e for w, e in zip(row, e_place, strict=True))
                for row in weight["image.weight"]
            ]
            a = sum(weight["appearance.weight"][k][i][0][0] * x[i, r, c] for i in range(CHANNELS))
            logits.append(sum(q * v for q, v in zip(query, key, strict=True)) + float(a))
        top = max(logits)
        shares = [math.exp(value - top) for value in logits]
        for share, (r, c) in zip(shares, places, strict=True):
            found[:, k] += share / sum(shares) * x[:, r, c]
    return found.view(-1, BINS, BINS)


@pytest.mark.parametrize("support", SUPPORTS)
def test_every_bin_is_the_weighted_sum_of_the_paper(support):
    module, (maps, boxes) = make(support), make_inputs()
    found = module(maps, boxes, IMAGES, SIZES)
    for n, (b, box) in enumerate(zip(IMAGES.tolist(), boxes.tolist(), strict=True)):
        expected = reference(module, maps[b], box, SIZES[b].tolist(), support)
        torch.testing.assert_close(found[n], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("support", SUPPORTS)
def test_gradients(support):
    module, (maps, boxes) = make(support), make_inputs()
    names = [name for name, _ in module.named_parameters()]

    def run(x, *parameters):
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(module, state, (x, boxes, IMAGES, SIZES))

    inputs = [maps.requires_grad_(), *module.parameters()]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


# ---- places ----


def test_a_small_box_gives_each_of_its_cells_once_and_a_large_one_a_grid():
    boxes = torch.tensor([[2.0, 3.0, 5.0, 4.0], [0.0, 0.0, 40.0, 20.0], [-9.0, -9.0, -8.0, -8.0]])
    grid = grid_in(boxes, torch.tensor([[20, 40]] * 3), 8)
    assert grid.counts.sum((1, 2)).tolist() == [3, 64, 1]
    assert grid.rows[0][grid.counts[0].any(1)].tolist() == [3]
    assert grid.columns[0][grid.counts[0].any(0)].tolist() == [2, 3, 4]
    assert grid.rows[1].tolist() == [1, 3, 6, 8, 11, 13, 16, 18]
    assert grid.rows[2].unique().tolist() == grid.columns[2].unique().tolist() == [0]


def test_around_a_box_are_no_places_that_it_touches():
    boxes = torch.tensor([[4.5, 4.0, 8.0, 8.0]])
    grid = grid_around(boxes, torch.tensor([[16, 16]]), 16, math.inf)
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[4:8, 4:8] = False
    assert torch.equal(grid.counts[0], outside)
    double = grid_around(boxes, torch.tensor([[16, 16]]), 7, 2.0)
    assert double.rows.min() == 2 and double.rows.max() == 9


def test_outside_the_image_is_nothing():
    module, (maps, boxes) = make(), make_inputs()
    expected = module(maps, boxes, IMAGES, SIZES)
    noise = maps.clone()
    for image, (height, width) in zip(noise, SIZES.tolist(), strict=True):
        image[:, height:], image[:, :, width:] = 1e3, -1e3
    torch.testing.assert_close(module(noise, boxes, IMAGES, SIZES), expected, rtol=0, atol=0)


# ---- properties ----


@pytest.mark.parametrize("support", SUPPORTS)
def test_a_map_of_one_value_gives_that_value(support):
    module, (maps, boxes) = make(support), make_inputs()
    values = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)[:, None, None]
    found = module(torch.ones_like(maps) * values, boxes, IMAGES, SIZES)
    torch.testing.assert_close(found, values.expand_as(found), rtol=0, atol=1e-12)


def test_regions_do_not_see_each_other(monkeypatch):
    module, (maps, boxes) = make(), make_inputs()
    expected = module(maps, boxes, IMAGES, SIZES)
    one = torch.zeros(1, dtype=torch.int64)
    alone = [module(maps[b : b + 1], boxes[n : n + 1], one, SIZES[b : b + 1])
             for n, b in enumerate(IMAGES.tolist())]  # fmt: skip
    torch.testing.assert_close(torch.cat(alone), expected, rtol=0, atol=1e-14)
    monkeypatch.setattr(learned, "SCRATCH_BYTES", 1)  # one region in a block
    torch.testing.assert_close(module(maps, boxes, IMAGES, SIZES), expected, rtol=0, atol=1e-14)


def test_no_regions():
    module, (maps, boxes) = make(), make_inputs()
    assert module(maps, boxes[:0], IMAGES[:0], SIZES).shape == (0, CHANNELS, BINS, BINS)


def test_logits_start_of_order_1():
    torch.manual_seed(0)
    module = LearnedRegionFeatures(8, support="image")
    boxes = torch.tensor([[10.0, 5.0, 30.0, 25.0], [1.0, 2.0, 3.0, 4.0]])
    images = torch.zeros(2, dtype=torch.int64)
    weights, _ = module.weights(torch.zeros(1, 49, 38, 63), boxes, images, torch.tensor([[38, 63]]))
    counted = weights.clamp(min=1e-12).log()[weights > 0]
    assert 0.2 < counted.std() < 3
    assert (module.appearance.weight.std() - 0.01).abs() < 0.003


def test_mixed_precision_keeps_places_exact():
    torch.manual_seed(0)
    module = LearnedRegionFeatures(8, embed_dim=32, dim=16)
    maps, boxes = torch.randn(1, 8, 38, 63), torch.tensor([[300.2, 5.0, 330.7, 25.0]])
    image = torch.zeros(1, dtype=torch.int64)
    expected = module(maps, boxes, image)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(maps, boxes, image)
    assert (found - expected).abs().max() < 0.02


@pytest.mark.filterwarnings("ignore")
def test_a_trace_holds_for_other_sizes_and_numbers():
    class OfOneImage(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = make()

        def forward(self, x, b):
            return self.layer(x, b, torch.zeros_like(b[:, 0]).long())

    module, (maps, boxes) = OfOneImage().eval(), make_inputs()
    with torch.no_grad():
        traced = torch.jit.trace(module, (maps[:1], boxes), check_trace=False)
        wide = torch.randn(1, CHANNELS, 20, 31, dtype=torch.float64)
        for x, b in ((wide, boxes[:3]), (maps[1:2], boxes[:1])):
            torch.testing.assert_close(traced(x, b), module(x, b), rtol=0, atol=1e-12)


def test_memory_holds_no_copy_of_the_map_for_every_region():
    torch.manual_seed(0)
    module = LearnedRegionFeatures(64, embed_dim=32, dim=16)
    maps = torch.randn(1, 64, 38, 63, requires_grad=True)
    boxes = torch.rand(100, 4) * 15 + torch.tensor([0, 0, 20, 20])
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(maps, boxes, torch.zeros(100, dtype=torch.int64))
    copies = 100 * (14**2 + 10**2) * 64
    assert sum(kept) < copies / 2


@pytest.mark.parametrize(
    ("argument", "value"),
    [("support", "boxes"), ("bins", 0), ("inside", 0), ("around", 0), ("dim", 0), ("embed_dim", 7)],
)
def test_wrong_arguments(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be .*got {value!r}"):
        LearnedRegionFeatures(CHANNELS, **{argument: value})


# ---- what it learns ----


def test_weight_moves_into_the_box_in_training():
    """The figure of the paper: before training weights are spread over the image."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    module = LearnedRegionFeatures(4, bins=2, embed_dim=32, dim=16, inside=6, around=6)
    classifier = torch.nn.Linear(16, 4)
    corners = torch.randint(1, 9, (64, 2), generator=generator)
    boxes = torch.cat([corners, corners + 3], dim=1).float()
    classes, images = torch.randint(4, (64,), generator=generator), torch.arange(64)
    sizes = torch.tensor([[12, 12]]).expand(64, 2)
    maps = 0.3 * torch.randn(64, 4, 12, 12, generator=generator)
    for x, (x1, y1, x2, y2), label in zip(maps, boxes.int().tolist(), classes, strict=True):
        x[:, y1:y2, x1:x2] += torch.eye(4)[label][:, None, None]

    def inside():
        weights, places = module.weights(module.appearance(maps), boxes, images, sizes)
        y, x = places // 12 % 12, places % 12
        in_box = (x >= boxes[:, :1]) & (x < boxes[:, 2:3]) & (y >= boxes[:, 1:2])
        in_box &= y < boxes[:, 3:]
        return (weights * in_box[:, None]).sum(2).mean().item()

    before = inside()
    optimizer = torch.optim.Adam([*module.parameters(), *classifier.parameters()], lr=3e-3)
    for _ in range(80):
        logits = classifier(module(maps, boxes, images, sizes).flatten(1))
        loss = torch.nn.functional.cross_entropy(logits, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = inside()
    assert before < 0.35 and after > before + 0.3 and loss < 0.8, (before, after, loss)
