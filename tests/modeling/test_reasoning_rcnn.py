"""ROI heads of Reasoning-RCNN: what the layer is given, gradients, both stages, class graphs."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from torch import nn

from relation_heads.config import find_config, get_cfg
from relation_heads.layers import KnowledgeGraph
from relation_heads.modeling.roi_heads import reasoning_rcnn
from tests.modeling.common import (
    C4,
    C4_REASONING_RCNN,
    KEYPOINT,
    MASK,
    NUM_CLASSES,
    RCNN_REFINE,
    REASONING_RCNN,
    SIZES,
    STOCK,
    assert_batch_equals_image_by_image,
    assert_same_detections,
    batch,
    build,
    build_heads,
    calls,
    detections,
    head_detections,
    head_losses,
    losses,
    maps,
    results,
    scattered,
)

FORMS = {
    "FPN": REASONING_RCNN,
    "FPN two stages": (*REASONING_RCNN, *RCNN_REFINE),
    "C4": C4_REASONING_RCNN,
    "C4 two stages": (*C4_REASONING_RCNN, *RCNN_REFINE),
}
forms = pytest.mark.parametrize("ours", FORMS.values(), ids=FORMS)
BASE = {"loss_cls", "loss_box_reg"}
NEW = {"loss_cls_reasoning_rcnn", "loss_box_reg_reasoning_rcnn"}
CLASSES = tuple(f"class{k}" for k in range(NUM_CLASSES))


def rcnn(key, value):
    return (f"MODEL.REASONING_RCNN.{key}", value)


NO_CLASSES = rcnn("CHANNELS", 0)
VARIANTS = {
    **FORMS,
    "two stages without classes": (*REASONING_RCNN, *RCNN_REFINE, *NO_CLASSES),
    "published": (*REASONING_RCNN, *rcnn("OUT_NORM", ""), *rcnn("MEAN_GRADIENT", False)),
    "masks, keypoints": (*REASONING_RCNN, *MASK, *KEYPOINT),
    "with relations": (*REASONING_RCNN, "MODEL.ROI_BOX_HEAD.NAME", "RelationBoxHead"),
    "two stages with relations": (
        *REASONING_RCNN, *RCNN_REFINE, "MODEL.ROI_BOX_HEAD.NAME", "RelationBoxHead",
    ),
}  # fmt: skip


def graph_file(tmp_path, names=CLASSES):
    """class0 and class2 are told of one another, class3 of class0 with twice the weight."""
    graph = KnowledgeGraph(
        classes=names,
        relations=("near",),
        directed=(True,),
        edge_relation=torch.tensor([0, 0]),
        edge_dst=torch.tensor([names.index("class0"), names.index("class3")]),
        edge_src=torch.tensor([names.index("class2"), names.index("class0")]),
        edge_weight=torch.tensor([1.0, 2.0]),
    )
    graph.save(tmp_path / "graph.json")
    return rcnn("GRAPH_FILE", str(tmp_path / "graph.json"))


# ---- the stock head inside ----


@forms
def test_stock_checkpoint_loads_completely(ours):
    stock = build(*(C4 if "Res5ReasoningRCNNROIHeads" in ours else STOCK), settle=False)
    ours = build(*ours, settle=False)
    result = ours.load_state_dict(stock.state_dict(), strict=False)
    new = ("roi_heads.mechanism.graph.", "roi_heads.mechanism.predictor.")
    assert not result.unexpected_keys
    assert all(k.startswith(new) for k in result.missing_keys)
    assert all(any(k.startswith(n) for k in result.missing_keys) for n in new)


def test_a_whole_model_without_classes_equals_the_stock_model():
    stock, ours = build(), build(*REASONING_RCNN, *NO_CLASSES)
    expected, actual = losses(stock), losses(ours)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert_same_detections(detections(ours), detections(stock), rtol=0, atol=0)


@forms
def test_the_base_losses_are_the_stock_ones(ours):
    """The base head sees the sample that Detectron2 draws: no region listens to another one."""
    stock = build_heads(*(C4 if "Res5ReasoningRCNNROIHeads" in ours else STOCK))
    ours = build_heads(*ours)
    expected, actual = (head_losses(heads, scattered((40, 50))) for heads in (stock, ours))
    assert actual.keys() == BASE | NEW
    assert all(torch.equal(actual[name], expected[name]) for name in BASE)


# ---- training ----


@pytest.mark.parametrize("keys", VARIANTS.values(), ids=VARIANTS)
def test_a_step_trains_every_parameter(keys, tmp_path):
    heads = build_heads(*keys, *graph_file(tmp_path))
    result = head_losses(heads)
    assert result.keys() >= BASE | NEW and all(v.isfinite() for v in result.values())
    sum(result.values()).backward()
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if name.startswith("mechanism."):
            assert parameter.grad.any(), name


def second_gradients(heads, *names):
    """Gradients of the second losses alone, of parameters and of all maps."""
    features = maps(requires_grad=True)
    result = head_losses(heads, features=features)
    wanted = {n: heads.get_parameter(n) for n in names} | features
    found = torch.autograd.grad(
        sum(result[n] for n in NEW), list(wanted.values()), allow_unused=True
    )
    return dict(zip(wanted, found, strict=True))


def test_no_gradient_reaches_the_pool_and_the_image_trains_its_maps():
    weight, bias = "box_predictor.cls_score.weight", "box_predictor.cls_score.bias"
    heads = build_heads(*REASONING_RCNN)
    with torch.no_grad():  # f counts for nothing, so that h is the only way back
        for layer in (heads.mechanism.predictor.cls_score, heads.mechanism.predictor.bbox_pred):
            layer.weight[:, :64] = 0
    gradients = second_gradients(heads, weight, bias)
    assert gradients[weight].any() and gradients[bias].any()  # by the scores of the regions
    assert all(gradients[name].any() for name in ("p3", "p4", "p5"))
    heads.mechanism.graph.forward = lambda logits, *rest: type(heads.mechanism.graph).forward(
        heads.mechanism.graph, logits.detach(), *rest
    )
    gradients = second_gradients(heads, weight, bias)
    assert all(g is None or not g.any() for g in (gradients[weight], gradients[bias]))
    assert all(gradients[name].any() for name in ("p3", "p4", "p5"))
    assert gradients["p2"] is None or not gradients["p2"].any()  # the finest map is not asked


def test_losses_are_weighted():
    plain = head_losses(build_heads(*REASONING_RCNN))
    weighted = head_losses(build_heads(*REASONING_RCNN, *rcnn("LOSS_WEIGHTS", [2.0, 0.5])))
    for name, value in weighted.items():
        assert torch.equal(value, plain[name] * (0.5 if name in NEW else 2.0)), name


# ---- what the layer is given ----


@forms
@pytest.mark.parametrize("train", [True, False])
def test_scores_pool_and_boxes_are_of_the_same_rows(ours, train):
    heads = build_heads(*ours)
    base = calls(heads.box_predictor)
    graph, stage = calls(heads.mechanism.graph), results(heads.mechanism, "_predict")
    head_losses(heads) if train else head_detections(heads)
    ((logits, pool, attention, regions), h), ((x, second, _), _) = graph[0], stage[0]
    weight, bias = heads.box_predictor.cls_score.weight, heads.box_predictor.cls_score.bias
    assert torch.equal(pool, torch.cat([weight, bias[:, None]], dim=1))
    assert torch.equal(regions.boxes, second.regions.boxes)
    assert attention.shape == (2, NUM_CLASSES + 1) and h.shape == (len(x), 16)
    rows = [p.row if p.has("row") else torch.arange(len(p)) for p in second.proposals]
    starts = [0, len(base[0][1][0]) // 2]  # both images have as many regions in the first stage
    rows = torch.cat([row + start for row, start in zip(rows, starts, strict=True)])
    assert torch.equal(logits, base[0][1][0][rows])


def test_the_maps_are_those_of_the_release():
    def shapes(**strides):
        return {n: ShapeSpec(channels=256, stride=s) for n, s in strides.items()}

    found = reasoning_rcnn.attention_maps(shapes(p2=4, p6=64, p3=8, p5=32, p4=16))
    assert list(found) == ["p3", "p4", "p5", "p6"]
    assert list(reasoning_rcnn.attention_maps(shapes(res4=16))) == ["res4"]
    mechanism = build_heads(*REASONING_RCNN).mechanism
    assert dict(zip(mechanism.map_names, mechanism.map_strides, strict=True)) == {
        "p3": 8, "p4": 16, "p5": 32, "res4": 16,
    }  # fmt: skip


def test_the_stride_is_of_the_map_that_the_others_are_resized_to():
    heads = build_heads(*REASONING_RCNN)
    seen = results(heads.mechanism.graph, "attention")
    head_detections(heads)
    ((_, given, sizes, stride, resized_to), _) = seen[0]
    assert sizes == list(SIZES)
    names = heads.mechanism.map_names
    assert names[resized_to] == "p4" and stride == 16
    assert given[resized_to].shape[2:] == (SIZES[0][0] // 16, SIZES[0][1] // 16)


def test_a_sigmoid_classifier_has_no_background_score():
    heads = build_heads(*REASONING_RCNN, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True)
    base, graph = calls(heads.box_predictor), calls(heads.mechanism.graph)
    head_detections(heads)
    logits = graph[0][0][0]
    assert not logits[:, -1].any()
    assert torch.equal(logits[:, :-1], base[0][1][0][:, :-1])


# ---- detections ----


@forms
def test_batch_equals_image_by_image(ours):
    heads = build_heads(*ours)
    features, proposals = maps(), scattered((20, 7))
    assert_batch_equals_image_by_image(heads, proposals, features)


@forms
def test_no_proposals_and_no_objects(ours):
    heads = build_heads(*ours)
    empty = [x["instances"] for x in batch(SIZES, objects=0)]
    result = head_losses(heads, scattered((0, 0)), empty)
    sum(result.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads.parameters())
    nothing, found = head_detections(heads, scattered((0, 20)))
    assert len(nothing) == 0 < len(found)


def test_mean_detects_from_the_mean_of_the_logits_and_the_second_boxes():
    heads = build_heads(*REASONING_RCNN, *RCNN_REFINE, *rcnn("TEST_ENSEMBLE", "mean"))
    for predictor in (heads.box_predictor, heads.mechanism.predictor):
        nn.init.normal_(predictor.cls_score.weight, std=0.3)
        nn.init.normal_(predictor.bbox_pred.weight, std=0.3)
    base, stage = calls(heads.box_predictor), results(heads.mechanism, "_predict")
    found = head_detections(heads)
    ((_, second, _), (logits, deltas)) = stage[0]
    mean = (base[0][1][0] + logits) / 2
    expected, _ = heads.mechanism.predictor.inference((mean, deltas), second.proposals)
    assert_same_detections(found, expected, rtol=0, atol=1e-6)


# ---- class graphs ----


@pytest.mark.parametrize("norm", ["rows", "none"])
def test_the_edges_of_the_file_are_in_the_order_of_the_data_set(tmp_path, norm):
    name = "reasoning_rcnn_test"
    MetadataCatalog.get(name).thing_classes = list(CLASSES)
    try:
        keys = graph_file(tmp_path, CLASSES[::-1])
        data = ("DATASETS.TRAIN", (name,))
        heads = build_heads(*REASONING_RCNN, *keys, *rcnn("EDGE_NORM", norm), *data)
    finally:
        MetadataCatalog.remove(name)
    edges = heads.mechanism.graph.edges(torch.eye(NUM_CLASSES))
    expected = torch.zeros(NUM_CLASSES, NUM_CLASSES)  # each edge both ways
    if norm == "none":
        expected[0, 2] = expected[2, 0] = 1.0
        expected[3, 0] = expected[0, 3] = 2.0
    else:
        expected[0, 2] = expected[0, 3] = 0.5  # by the relation, and by its inverse
        expected[2, 0] = expected[3, 0] = 1.0
    torch.testing.assert_close(edges, expected)
    assert not any("edges" in key for key in heads.state_dict())


def test_without_a_file_there_are_no_edges():
    assert build_heads(*REASONING_RCNN).mechanism.graph.edges is None


def test_a_graph_of_other_classes_is_refused(tmp_path):
    keys = (*REASONING_RCNN, *graph_file(tmp_path), "MODEL.ROI_HEADS.NUM_CLASSES", 4)
    with pytest.raises(ValueError, match=r"graph\.json has 5 classes, .*NUM_CLASSES is 4"):
        build_heads(*keys)


# ---- configuration ----


def test_the_keys_reach_the_layer():
    heads = build_heads(*REASONING_RCNN, *rcnn("OUT_NORM", ""), *rcnn("LOSS_WEIGHTS", [1, 0]))
    graph = heads.mechanism.graph
    assert (graph.dim, graph.out_dim, graph.query.squeeze.out_channels) == (64, 16, 8)
    assert isinstance(graph.norm, nn.Identity)
    assert heads.mechanism.num_classifications == 1
    assert heads.mechanism.predictor.cls_score.in_features == 64 + 16


@pytest.mark.parametrize("stage", ["", "_two_stage", "_official"])
def test_presets(stage):
    cfg = get_cfg()
    cfg.merge_from_file(find_config(f"heads/reasoning_rcnn{stage}.yaml"))
    keys, clip = cfg.MODEL.REASONING_RCNN, cfg.SOLVER.CLIP_GRADIENTS
    assert keys.REFINE == bool(stage)
    released = stage == "_official"
    assert (keys.EDGE_NORM, keys.OUT_NORM) == (("none", "") if released else ("rows", "LN"))
    assert keys.TEST_ENSEMBLE == ("mean" if released else "last")
    assert keys.LOSS_WEIGHTS == [1.0, 0.5 if released else 1.0]
    assert keys.MEAN_GRADIENT != released
    assert clip.ENABLED == released and (clip.CLIP_VALUE == 35.0 or not released)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (rcnn("GRAPH_FILE", "nowhere.json"), r"MODEL\.REASONING_RCNN\.GRAPH_FILE nowhere\.json"),
        (rcnn("CHANNELS", -1), r"MODEL\.REASONING_RCNN\.CHANNELS must be .*got -1"),
        (
            (*RCNN_REFINE, "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", (0.5,)),
            r"MODEL\.REASONING_RCNN\.REFINE takes .*\[0\.5\]",
        ),
    ],
    ids=["no file", "width", "one IoU"],
)
def test_wrong_values_are_named_at_build_time(keys, message):
    with pytest.raises(ValueError, match=message):
        build_heads(*REASONING_RCNN, *keys)
