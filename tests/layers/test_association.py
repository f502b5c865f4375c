"""Association of tracklets and detections against its reference; what it remembers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from relation_heads.layers import Association, ObjectRelation, Regions, TemporalAttention, Tracklets
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.association import module as code
from relation_heads.layers.boxes import box_iou
from tests.layers import reference_association as reference

D, L, SIZE, FRAME = 6, 4, (90, 120), 9
# Frames in which each tracklet was seen: one, two with a gap, as many as fit, more than fit.
SEEN = ((8,), (3, 7), (2, 3, 6, 8), (0, 1, 2, 4, 5, 6))


def make(start=False, **options):
    """As at the start, or as after training."""
    torch.manual_seed(0)
    options = {"relation_channels": 5, "cosine_channels": D, "place_channels": 3, **options}
    module = Association(D, hidden=7, **options).double()
    if not start:
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return module


def boxes_of(n, generator):
    corner = torch.rand(n, 2, generator=generator, dtype=torch.float64) * 60
    size = 10 + 20 * torch.rand(n, 2, generator=generator, dtype=torch.float64)
    return torch.cat([corner, corner + size], dim=1)


def detections(n=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, D, generator=generator, dtype=torch.float64)
    return features.requires_grad_(), boxes_of(n, generator)


def follow(seen=SEEN, length=L):
    """Tracklets as a tracker makes them, frame by frame, and the same as lists, cut to `length`."""
    generator = torch.Generator().manual_seed(2)
    tracklets, lists, row_of = Tracklets.empty(D, length, dtype=torch.float64), {}, {}
    tracklets = replace(tracklets, boxes=tracklets.boxes.double())
    leaves = []
    for frame in range(FRAME):
        here = [k for k, frames in enumerate(seen) if frame in frames]
        features = torch.randn(len(here), D, generator=generator, dtype=torch.float64)
        boxes = boxes_of(len(here), generator)
        leaves.append(features.requires_grad_())
        for k, phi, box in zip(here, features, boxes.tolist(), strict=True):
            lists[k] = [*lists.get(k, []), (frame, phi, box)][-length:]
        old = [n for n, k in enumerate(here) if k in row_of]
        new = [n for n, k in enumerate(here) if k not in row_of]
        rows = torch.tensor([row_of[here[n]] for n in old], dtype=torch.int64)
        tracklets = tracklets.extended(rows, features[old], boxes[old], frame)
        tracklets = tracklets.born(features[new], boxes[new], frame)
        row_of.update({here[n]: len(row_of) + i for i, n in enumerate(new)})
    order = torch.tensor([row_of[k] for k in range(len(seen))], dtype=torch.int64)
    return tracklets.keep(order), [lists[k] for k in range(len(seen))], leaves


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def scores(module, tracklets, features, boxes):
    return module(tracklets, features, boxes, frame=FRAME, image_size=SIZE)


@pytest.mark.parametrize("block", [1, 7 * 5 * 3, code.BLOCK])
@pytest.mark.parametrize("cosine_channels", [3, D])
def test_equals_the_reference_with_gradients(monkeypatch, block, cosine_channels):
    monkeypatch.setattr(code, "BLOCK", block)
    module, (features, boxes) = make(cosine_channels=cosine_channels), detections()
    tracklets, lists, remembered = follow()
    mine = scores(module, tracklets, features, boxes)
    weight = dict(module.named_parameters())
    pairs = list(zip(features, boxes.tolist(), strict=True))
    theirs = torch.stack(
        [
            torch.stack([reference.score(weight, seen, *pair, FRAME, SIZE) for pair in pairs])
            for seen in lists
        ]
    )
    close(mine, theirs)
    leaves = [features, *module.parameters(), *(x for x in remembered if len(x))]
    pull = torch.randn(mine.shape, dtype=mine.dtype)
    ours = torch.autograd.grad(mine, leaves, pull, allow_unused=True)
    right = torch.autograd.grad(theirs, leaves, pull, allow_unused=True)
    for a, b, leaf in zip(ours, right, leaves, strict=True):
        zeros = torch.zeros_like(leaf)  # frames that every tracklet has forgotten
        close(zeros if a is None else a, zeros if b is None else b)


def test_the_start_is_cosine_of_looks_and_overlap_with_where_the_object_should_be():
    module, (features, boxes) = make(start=True), detections()
    tracklets, lists, _ = follow()
    mean = torch.stack([torch.stack([phi for _, phi, _ in seen]).mean(0) for seen in lists])
    cosine = F.cosine_similarity(mean[:, None], features, dim=-1)
    overlap = box_iou(tracklets.predicted(FRAME)[:, None], boxes)
    assert (overlap > 0).any()
    expected = code.START * (cosine + overlap - 1)
    # W_C was drawn in float32.
    torch.testing.assert_close(
        scores(module, tracklets, features, boxes), expected, rtol=0, atol=1e-5
    )


def test_from_the_start_every_weight_but_those_behind_zeros_learns():
    module = make(start=True, spatial=ObjectRelation(D, num_heads=2, key_dim=3))
    features, boxes = detections()
    tracklets, _, _ = follow()
    related = module.relate(features, Regions.from_boxes([boxes], [SIZE]))
    scores(module, tracklets, related, boxes).square().sum().backward()
    still = {name for name, p in module.named_parameters() if not p.grad.any()}
    # Nothing before w_2 = 0 and W_V = 0 has a gradient until these have moved.
    assert still == {
        *(f"{layer}.{kind}" for layer in ("relation", "place", "motion", "hidden")
          for kind in ("weight", "bias")),
        *(f"spatial.{layer}.{kind}" for layer in ("query", "key", "gate")
          for kind in ("weight", "bias")),
    }  # fmt: skip


def test_objects_see_their_own_frame_alone():
    module = make(spatial=ObjectRelation(D, num_heads=2, key_dim=3))
    (f, b), (g, c) = detections(3), detections(4, seed=5)
    both = module.relate(torch.cat([f, g]), Regions.from_boxes([b, c], [SIZE] * 2))
    close(both[:3], module.relate(f, Regions.from_boxes([b], [SIZE])))
    assert (both[:3] - f).abs().max() > 0.01
    assert make().relate(f, Regions.from_boxes([b], [SIZE])) is f


def test_order_of_tracklets_and_detections_does_not_matter():
    module, (features, boxes) = make(), detections()
    tracklets, _, _ = follow()
    t, n = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 1, 0, 3, 2])
    mixed = scores(module, tracklets.keep(t), features[n], boxes[n])
    close(mixed, scores(module, tracklets, features, boxes)[t][:, n])


@pytest.mark.parametrize("garbage", [1e6, float("nan"), float("inf")])
def test_what_is_in_columns_without_a_frame_does_not_matter(garbage):
    module, (features, boxes) = make(), detections()
    short, _, remembered = follow(((8,), (3, 7)), length=2)
    long, _, leaves = follow(((8,), (3, 7)), length=L)
    hidden = ~long.seen[..., None]
    dirty = replace(
        long,
        features=long.features.masked_fill(hidden, garbage),
        boxes=long.boxes.masked_fill(hidden, garbage),
    )
    clean, same = (
        torch.autograd.grad(
            scores(module, tracklets, features, boxes).square().sum(),
            [features, *module.parameters(), *(x for x in own if len(x))],
        )
        for tracklets, own in ((short, remembered), (dirty, leaves))
    )
    close(scores(module, dirty, features, boxes), scores(module, short, features, boxes))
    for a, b in zip(clean, same, strict=True):
        close(a, b)


@pytest.mark.parametrize(("t", "n"), [(0, 5), (4, 0), (0, 0)])
def test_nothing_to_associate(t, n):
    module = make(spatial=ObjectRelation(D, num_heads=2, key_dim=3))
    tracklets = follow()[0].keep(torch.arange(t))
    features, boxes = detections(n)
    related = module.relate(features, Regions.from_boxes([boxes], [SIZE]))
    found = scores(module, tracklets, related, boxes)
    assert found.shape == (t, n)
    found.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_features_of_zeros_have_finite_scores_and_gradients():
    module, (_, boxes) = make(), detections()
    features = torch.zeros(5, D, dtype=torch.float64, requires_grad=True)
    nothing = replace(follow()[0], features=torch.zeros(len(SEEN), L, D, dtype=torch.float64))
    found = scores(module, nothing, features, boxes)
    found.sum().backward()
    assert found.isfinite().all() and features.grad.isfinite().all()


def test_temporal_attention_finds_the_frame_that_says_most():
    tracklets = follow()[0]
    attention = TemporalAttention(D).double()
    mean = attention(tracklets)
    close(mean[2], tracklets.features[2].mean(0))
    with torch.no_grad():
        attention.weight.copy_(tracklets.features[2, 1] * 100)
    weights = attention.weights(tracklets)
    close(weights.sum(1), torch.ones(len(SEEN), dtype=torch.float64))
    assert not weights[~tracklets.seen].any()
    assert weights[2].argmax() == 1


def test_half_precision_keeps_boxes_and_scores_wide():
    module, (features, boxes) = make().float(), detections()
    tracklets = follow()[0]
    tracklets = replace(tracklets, features=tracklets.features.float())
    arguments = tracklets, features.float(), boxes.float()
    exact = scores(module, *arguments)
    with torch.autocast("cpu", torch.bfloat16):
        rough = scores(module, *arguments)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        start = scores(make(start=True).float(), arguments[0], arguments[1], boxes.float() + 1e4)
    cosine = start / code.START + 1  # looks that are nearly equal are not rounded to one value
    assert (cosine - cosine.bfloat16()).abs().max() > 1e-4


def test_memory_of_pairs_is_that_of_the_scores():
    """Numbers that are kept for backward: not those of W_1 for each pair."""
    t = n = 64
    few = dict.fromkeys(["relation_channels", "cosine_channels", "place_channels"], 4)
    module = Association(D, hidden=64, **few)
    features, boxes = torch.randn(n, D), torch.rand(n, 4).cumsum(1)
    tracklets = Tracklets.empty(D, L).born(torch.randn(t, D), torch.rand(t, 4).cumsum(1), 0)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.update({x.data_ptr(): x.numel()}) or x, lambda x: x
    ), pytest.MonkeyPatch.context() as patch:  # fmt: skip
        patch.setattr(code, "BLOCK", 2**14)
        found = module(tracklets, features, boxes, frame=1, image_size=SIZE)
    found.sum().backward()
    assert sum(kept.values()) < t * n * 64 / 5


def test_a_long_video_takes_no_more_memory_than_a_short_one():
    tracklets = Tracklets.empty(D).born(*(x.detach() for x in detections(3)), 0)
    rows = torch.arange(3)
    first = [x.untyped_storage().nbytes() for x in vars(tracklets).values()]
    for frame in range(1, 200):
        features, boxes = detections(3, seed=frame)
        tracklets = tracklets.extended(rows, features.detach(), boxes, frame)
    assert [x.untyped_storage().nbytes() for x in vars(tracklets).values()] == first
    assert tracklets.frames.tolist() == [list(range(199, 189, -1))] * 3


def test_backward_ends_where_tracklets_are_detached():
    tracklets, _, _ = follow()
    assert tracklets.features.requires_grad and not tracklets.detach().features.requires_grad


def test_an_object_is_expected_to_go_on():
    tracklets = Tracklets.empty(D)
    feature = torch.zeros(1, D)
    tracklets = tracklets.born(feature, torch.tensor([[0.0, 10, 10, 30]]), 2)
    assert tracklets.predicted(7).tolist() == [[0, 10, 10, 30]]
    row = torch.tensor([0])
    tracklets = tracklets.extended(row, feature, torch.tensor([[4.0, 8, 14, 28]]), 4)  # 2, -1 each
    tracklets = tracklets.extended(row, feature, torch.tensor([[6.0, 6, 18, 28]]), 5)  # 7/3, -1
    assert tracklets.predicted(8).tolist() == [pytest.approx([13, 3, 25, 25])]


def wrong(**fields):
    good = {
        "features": torch.zeros(2, 3, D),
        "boxes": torch.zeros(2, 3, 4),
        "frames": torch.tensor([[5, 4, -1], [3, -1, -1]]),
    }
    return lambda: Tracklets(**{**good, **fields})


@pytest.mark.parametrize(
    ("make_them", "words"),
    [
        (wrong(frames=torch.zeros(2, 3)), ["frames", "int64", "float32"]),
        (wrong(frames=torch.zeros(2, 0, dtype=torch.int64)), ["frames", "(2, 0)"]),
        (wrong(features=torch.zeros(2, 2, D)), ["features", "(2, 3, 'D')", "(2, 2, 6)"]),
        (wrong(boxes=torch.zeros(2, 3, 4).long()), ["boxes", "int64"]),
        (wrong(boxes=torch.zeros(2, 3, 5)), ["boxes", "(2, 3, 5)"]),
        (wrong(frames=torch.tensor([[5, 4, -1], [-1, -1, -1]])), ["[-1, -1, -1]", "row 1"]),
        (wrong(frames=torch.tensor([[5, -1, 4], [3, -1, -1]])), ["[5, -1, 4]", "row 0"]),
        (wrong(frames=torch.tensor([[5, 5, -1], [3, -1, -1]])), ["[5, 5, -1]", "row 0"]),
        (wrong(frames=torch.tensor([[5, -2, -2], [3, -1, -1]])), ["[5, -2, -2]", "row 0"]),
        (
            lambda: wrong()().extended(torch.ones(2).long(), torch.ones(2, D), torch.ones(2, 4), 9),
            ["[1, 1]"],
        ),
        (
            lambda: wrong()().extended(torch.tensor([0]), torch.zeros(1, D), torch.zeros(1, 4), 5),
            ["[5, 5, 4]", "row 0"],
        ),
        (lambda: wrong()().born(torch.zeros(1, D + 1), torch.zeros(1, 4), 9), ["(N, 6)", "(1, 7)"]),
    ],
)  # fmt: skip
def test_wrong_tracklets(make_them, words):
    wrong()()
    with pytest.raises(ValueError) as caught:
        make_them()
    assert all(word in str(caught.value) for word in words), caught.value


def test_detections_that_do_not_fit():
    module, (features, boxes) = make(), detections()
    tracklets = follow()[0]
    other = Tracklets.empty(D + 1)
    for arguments, frame, words in (
        ((tracklets, features[:, 1:], boxes), FRAME, ["(N, 6)", "(5, 5)"]),
        ((tracklets, features, boxes[1:]), FRAME, ["(5, 6)", "(4, 4)"]),
        ((other, features, boxes), FRAME, ["6 channels", "7"]),
        ((tracklets, features, boxes), 8, ["before frame 8", "got 8"]),
    ):
        with pytest.raises(ValueError) as caught:
            module(*arguments, frame=frame, image_size=SIZE)
        assert all(word in str(caught.value) for word in words), caught.value


def test_wrong_arguments():
    with pytest.raises(ArgumentError) as caught:
        Association(
            8,
            spatial=ObjectRelation(4, num_heads=2),
            relation_channels=0,
            cosine_channels=0,
            place_channels=0,
            hidden=0,
        )
    names = ["spatial", "relation_channels", "cosine_channels", "place_channels", "hidden"]
    assert [w.argument for w in caught.value.wrong] == names
    with pytest.raises(ArgumentError):
        TemporalAttention(0)


def test_parameters():
    with torch.device("meta"):
        module = Association(1024)
    relation, cosine, place = 2 * 1024 * 256 + 256, 1024 * 256, (128 + 1 + 64 + 1) * 64
    score = (256 + 1 + 64 + 64 + 1) * 256 + 256 + 1
    expected = 1024 + relation + cosine + place + score + 1
    assert sum(p.numel() for p in module.parameters()) == expected == 899_202
