"""`watch()`: what heads looked at, for whoever asks."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

import torch
import torch.nn.functional as F
from torch import nn

from relation_heads.layers import GloRe, ObjectRelation
from relation_heads.modeling import watch, watched
from tests.modeling.common import (
    C4_REASONING,
    C4_REASONING_RCNN,
    C4_RELATION,
    C4_SGRN,
    CASCADE,
    CASCADE_REASONING,
    CASCADE_REASONING_RCNN,
    CASCADE_RELATION,
    CASCADE_SGRN,
    NUM_CLASSES,
    RCNN_REFINE,
    REASONING,
    REASONING_RCNN,
    REFINE,
    RELATION,
    SGRN,
    batch,
    build,
    build_heads,
    calls,
    detections,
    head_detections,
    scattered,
)

FEW = ("MODEL.SGRN.NUM_NEIGHBORS", 6)
COUNTS = (20, 7)


def watched_detections(heads):
    with watch() as seen:
        found = head_detections(heads, scattered(COUNTS))
    return seen, found


# ---- who listened to whom ----


@pytest.mark.parametrize(
    "keys", [RELATION, C4_RELATION, CASCADE_RELATION], ids=["FPN", "C4", "Cascade"]
)
def test_relation_weights_are_those_of_the_module(keys):
    heads = build_heads(*keys)
    modules = [m for m in heads.modules() if isinstance(m, ObjectRelation)]
    told = {id(m): calls(m) for m in modules}
    seen, _ = watched_detections(heads)
    assert [id(entry.module) for entry in seen.listened] == [id(m) for m in modules]
    for entry in seen.listened:
        ((x, regions), _) = told[id(entry.module)][0]
        assert entry.regions is regions or torch.equal(entry.regions.boxes, regions.boxes)
        with torch.no_grad():
            expected = entry.module.weights(x, regions)
        for weights, other, count in zip(entry.weights, expected, COUNTS, strict=True):
            assert weights.shape == (4, count, count)
            assert torch.equal(weights, other)
            torch.testing.assert_close(weights.sum(-1), torch.ones(4, count))


@pytest.mark.parametrize("foreground", [True, False])
@pytest.mark.parametrize(
    "keys",
    [SGRN, (*SGRN, *REFINE), C4_SGRN, CASCADE_SGRN],
    ids=["FPN", "two stages", "C4", "Cascade"],
)
def test_sgrn_weights_are_the_softmax_of_the_kept_scores(keys, foreground):
    heads = build_heads(*keys, *FEW, "MODEL.SGRN.FOREGROUND_EDGES", foreground)
    for predictor in heads.modules():
        if hasattr(predictor, "cls_score"):
            nn.init.normal_(predictor.cls_score.weight, std=0.1)
    graph = calls(heads.mechanism.graph)
    seen, _ = watched_detections(heads)
    (entry,) = seen.listened
    ((features, _, regions, bias), _) = graph[0]
    assert entry.module is heads.mechanism.graph
    assert torch.equal(entry.regions.boxes, regions.boxes)
    with torch.no_grad():
        z = heads.mechanism.graph.learner(features)
    bias = torch.zeros(27) if bias is None else bias
    assert bias.any() == foreground
    for weights, latent, b, count in zip(
        entry.weights, z.split(COUNTS), bias.split(COUNTS), COUNTS, strict=True
    ):
        e = latent @ latent.T + b
        rest = e < e.topk(6, dim=1).values[:, -1:]
        expected = e.masked_fill(rest, -torch.inf).softmax(dim=1)
        assert weights.shape == (1, count, count)
        torch.testing.assert_close(weights[0], expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, count))


def test_sgrn_weights_with_fewer_regions_than_neighbours():
    seen, _ = watched_detections(build_heads(*SGRN))
    for weights, count in zip(seen.listened[0].weights, COUNTS, strict=True):
        assert weights.shape == (1, count, count) and (weights > 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, count))


def test_a_twin_without_a_graph_listens_to_nobody():
    seen, _ = watched_detections(build_heads(*SGRN, *REFINE, "MODEL.SGRN.GRAPH_DIMS", []))
    assert seen.listened == [] and seen.last is not None


@pytest.mark.parametrize("modules", [["local", "global"], ["local"], ["global"]], ids="+".join)
@pytest.mark.parametrize(
    "keys", [REASONING, C4_REASONING, CASCADE_REASONING], ids=["FPN", "C4", "Cascade"]
)
def test_attention_weighs_the_named_predictions(keys, modules):
    heads = build_heads(*keys, "MODEL.REASONING.MODULES", modules)
    for parameter in heads.mechanism.reasoner.parameters():
        with torch.no_grad():  # the predictions differ
            parameter.add_(torch.randn_like(parameter) * 0.1)
    seen, _ = watched_detections(heads)
    names = ["plain"] + [f"{m}{k}" for m in modules for k in (1, 2, 3)]
    assert list(seen.attention) == names
    assert all(w.shape == (27,) for w in seen.attention.values())
    torch.testing.assert_close(sum(seen.attention.values()), torch.ones(27))
    named = seen.last.named
    assert {*names, "final"} == named.keys()
    mean = sum(w[:, None] * named[n] for n, w in seen.attention.items())
    torch.testing.assert_close(named["final"], mean)
    assert not torch.allclose(named["final"], named["plain"])


@pytest.mark.parametrize(
    "keys",
    [REASONING_RCNN, C4_REASONING_RCNN, CASCADE_REASONING_RCNN],
    ids=["FPN", "C4", "Cascade"],
)
def test_what_an_image_asks_the_classes(keys):
    heads = build_heads(*keys)
    graph = calls(heads.mechanism.graph)
    seen, _ = watched_detections(heads)
    ((_, _, attention, _), _) = graph[0]
    assert seen.class_attention.shape == (len(COUNTS), NUM_CLASSES + 1)
    assert torch.equal(seen.class_attention, attention)
    torch.testing.assert_close(attention.sum(1), torch.ones(len(COUNTS)))
    assert not torch.equal(attention[0], attention[1])


# ---- which region a detection came from ----

METHOD = "MODEL.DUPLICATE_REMOVAL.TEST_METHOD"
# keys of an end, and what it multiplies the score of a region by
ENDS = {
    "nms": ((), 1.0),
    "soft_nms": ((METHOD, "soft_nms", "MODEL.DUPLICATE_REMOVAL.SOFT_NMS_SIGMA", 1e6), 1.0),
    "learned": ((METHOD, "learned", "MODEL.DUPLICATE_REMOVAL.LEARN", True), 0.5),
}
HEADS = {
    "nothing": ("MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads"),
    "relation": RELATION,
    "C4 relation": C4_RELATION,
    "SGRN two stages": (*SGRN, *REFINE),
    "SGRN mean": (*SGRN, "MODEL.SGRN.TEST_ENSEMBLE", "mean"),
    "SGRN union": (*SGRN, *REFINE, "MODEL.SGRN.TEST_ENSEMBLE", "union_nms"),
    "C4 SGRN": C4_SGRN,
    "Reasoning-RCNN": REASONING_RCNN,
    "Reasoning-RCNN two stages": (*REASONING_RCNN, *RCNN_REFINE),
    "reasoning": REASONING,
    "Cascade": (*CASCADE, "MODEL.ROI_HEADS.NAME", "CascadeDuplicateRemovalROIHeads"),
    "Cascade SGRN": CASCADE_SGRN,
}


def disagreeing(*keys):
    """Heads whose scores and boxes tell every region from every other."""
    heads = build_heads(*keys)
    torch.manual_seed(6)
    for module in heads.modules():
        if hasattr(module, "cls_score") and hasattr(module, "bbox_pred"):
            nn.init.normal_(module.cls_score.weight, std=0.3)
            nn.init.normal_(module.bbox_pred.weight, std=0.3)
    if heads.end.network is not None:  # halves every score
        nn.init.zeros_(heads.end.network.logit.weight)
        nn.init.zeros_(heads.end.network.logit.bias)
    return heads


@pytest.mark.parametrize(("end", "factor"), ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("keys", HEADS.values(), ids=HEADS)
def test_a_detection_is_its_region_classified(keys, end, factor):
    if "union_nms" in keys and "learned" in end:
        pytest.skip("refused: boxes of the first stage have not been learned")
    seen, found = watched_detections(disagreeing(*keys, *end))
    probabilities, boxes = seen.last.probabilities(), seen.last.boxes()
    for image, instances in enumerate(found):
        region, label = instances.region, instances.pred_classes
        assert len(instances) > 10 and len(region.unique()) > 3
        expected = factor * probabilities[image][region, label]
        torch.testing.assert_close(instances.scores, expected, rtol=1e-5, atol=1e-7)
        corners = boxes[image].unflatten(1, (-1, 4))
        corners = corners[region, label if corners.shape[1] > 1 else 0]
        height, width = instances.image_size
        corners = corners.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        torch.testing.assert_close(instances.pred_boxes.tensor, corners)
        x = seen.last.x.split([len(p) for p in probabilities])[image]
        assert torch.equal(seen.features(image, instances), x[region])


def test_features_classified_anew_give_the_scores():
    heads = disagreeing(*RELATION)
    seen, found = watched_detections(heads)
    for image, instances in enumerate(found):
        x = seen.features(image, instances)
        assert x.shape == (len(instances), 64)
        with torch.no_grad():
            scores = heads.box_predictor(x)[0].softmax(dim=1)
        own = scores[range(len(x)), instances.pred_classes]
        torch.testing.assert_close(instances.scores, own, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("end", "factor"), ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("classes", [NUM_CLASSES, 301])
def test_rows_are_right_beside_regions_that_are_not_finite(end, factor, classes):
    end = (*end, "MODEL.ROI_HEADS.NUM_CLASSES", classes)
    heads = disagreeing(*HEADS["nothing"], *end)
    plain = heads.box_head.forward

    def broken(pooled):
        x = plain(pooled).clone()
        x[[0, 5, 21]] = torch.nan
        return x

    heads.box_head.forward = broken
    seen, found = watched_detections(heads)
    probabilities = seen.last.probabilities()
    for image, (instances, gone) in enumerate(zip(found, [{0, 5}, {1}], strict=True)):
        assert len(instances) > 3 and not gone & set(instances.region.tolist())
        own = probabilities[image][instances.region, instances.pred_classes]
        ratio = instances.scores / own
        torch.testing.assert_close(ratio, torch.full_like(ratio, factor))


def test_whole_models_keep_the_rows():
    model = build(*RELATION)
    with watch() as seen:
        found = detections(model, batch(((64, 96),)))
    (probabilities,) = seen.last.probabilities()
    own = probabilities[found[0].region, found[0].pred_classes]
    torch.testing.assert_close(found[0].scores, own)


# ---- GloRe ----

UNITS = (
    "MODEL.BACKBONE.NAME", "build_context_resnet_fpn_backbone",
    "MODEL.CONTEXT_BLOCKS.PLUGINS", [{"name": "GloRe", "stages": {"res3": [0], "res4": [0, 1]}}],
)  # fmt: skip


def test_maps_of_glore_units_are_those_of_their_layer():
    model = build(*UNITS)
    glore = [m for m in model.modules() if isinstance(m, GloRe)]
    told = {id(unit): calls(unit) for unit in glore}
    images = batch()
    with watch(model) as seen:
        watched_found = detections(model, images)
    assert [entry.module for entry in seen.gathered] == glore and len(glore) == 3
    for entry in seen.gathered:
        ((x, *_), _) = told[id(entry.module)][0]
        with torch.no_grad():
            expected = F.conv2d(x, entry.module.conv_proj.weight, entry.module.conv_proj.bias)
        torch.testing.assert_close(entry.maps, expected)
    # Outside nothing is hooked, and what is found is the same.
    assert not any(unit._forward_pre_hooks for unit in glore)
    entries = len(seen.gathered)
    with watch() as other:
        found = detections(model, images)
    assert len(seen.gathered) == entries and not other.gathered
    assert all(torch.equal(a.scores, b.scores) for a, b in zip(found, watched_found, strict=True))


def test_hooks_of_glore_end_with_an_error():
    model = build(*UNITS)
    with pytest.raises(RuntimeError, match="stop"), watch(model):
        raise RuntimeError("stop")
    assert not any(m._forward_pre_hooks for m in model.modules() if isinstance(m, GloRe))


# ---- nobody watches ----


@pytest.mark.parametrize("keys", [RELATION, SGRN, REASONING], ids=["relation", "SGRN", "reasoning"])
def test_outside_nothing_is_computed_or_kept(keys, monkeypatch):
    heads = build_heads(*keys)
    with watch() as seen:
        assert watched() is seen
        watched_found = head_detections(heads)
    assert watched() is None
    entries = len(seen.listened)
    monkeypatch.setattr(ObjectRelation, "weights", None)  # whoever calls it fails
    plain = head_detections(heads)
    assert len(seen.listened) == entries
    for a, b in zip(plain, watched_found, strict=True):
        assert not a.has("region")
        assert a.get_fields().keys() | {"region"} == b.get_fields().keys()
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)


def test_the_innermost_is_written_and_an_error_ends_it():
    heads = build_heads(*RELATION)
    with watch() as outer:
        with watch() as inner:
            head_detections(heads)
        assert watched() is outer and outer.last is None and not outer.listened
        assert inner.last is not None and len(inner.listened) == 2
    with pytest.raises(RuntimeError, match="stop"), watch():
        raise RuntimeError("stop")
    assert watched() is None
