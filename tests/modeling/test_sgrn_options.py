"""SGRN ROI heads under Detectron2's options, exported, and under wrong ones."""

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.export import TracingAdapter
from detectron2.modeling import build_model

from relation_heads.modeling.roi_heads import sgrn as sgrn_mechanism
from tests.helpers import tiny_cfg
from tests.modeling.common import (
    C4,
    C4_SGRN,
    KEYPOINT,
    MASK,
    NUM_CLASSES,
    REFINE,
    SGRN,
    SIZES,
    assert_same_detections,
    batch,
    build,
    build_heads,
    calls,
    detections,
    head_detections,
    head_losses,
    losses,
    results,
    scattered,
)

FORMS = {
    "FPN": SGRN,
    "FPN two stages": (*SGRN, *REFINE),
    "C4": C4_SGRN,
    "C4 two stages": (*C4_SGRN, *REFINE),
}
forms = pytest.mark.parametrize("ours", FORMS.values(), ids=FORMS.keys())


def sgrn(key, value):
    return (f"MODEL.SGRN.{key}", value)


# ---- Detectron2's options ----


@pytest.mark.parametrize(
    "options",
    [
        ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
        ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True),
        ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True, *MASK),
        ("MODEL.ROI_BOX_HEAD.NUM_CONV", 1, "MODEL.ROI_BOX_HEAD.CONV_DIM", 8),
        (*MASK, *KEYPOINT),
    ],
    ids=lambda o: " ".join(str(v).removeprefix("MODEL.") for v in o[:2]),
)
@pytest.mark.parametrize("refine", [(), REFINE], ids=["one stage", "two stages"])
def test_stock_options_keep_working(refine, options):
    heads = build_heads(*SGRN, *refine, *options)
    result = head_losses(heads)
    assert all(v.isfinite() for v in result.values())
    sum(result.values()).backward()
    found = head_detections(heads)
    assert all(len(d) > 0 for d in found)
    assert found[0].has("pred_masks") == ("MODEL.MASK_ON" in options)
    assert found[0].has("pred_keypoints") == ("MODEL.KEYPOINT_ON" in options)


def test_a_sigmoid_classifier_has_no_background_score(monkeypatch):
    nodes = results(sgrn_mechanism, "semantic_nodes", monkeypatch)
    heads = build_heads(*SGRN, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True)
    base = calls(heads.box_predictor)
    head_detections(heads)
    (_, (scores, _)), ((logits, *_), _) = base[0], nodes[0]
    assert not logits[:, -1].any()
    assert torch.equal(logits[:, :-1], scores[:, :-1])


@pytest.mark.parametrize("ours", [SGRN, C4_SGRN], ids=["FPN", "C4"])
def test_mask_branch_trains_on_foreground_only(ours):
    heads = build_heads(*ours, *MASK)
    mask, labelled = calls(heads.mask_head), results(heads, "label_and_sample_proposals")
    res5 = calls(heads.res5) if ours is C4_SGRN else []
    head_losses(heads)
    (features, instances), _ = mask[0]
    classes = torch.cat([p.gt_classes for p in instances])
    assert len(features) == len(classes) > 0
    assert ((classes >= 0) & (classes < NUM_CLASSES)).all()
    if ours is C4_SGRN:  # each with the features of its own box
        classes = torch.cat([p.gt_classes for p in labelled[0][1]])
        foreground = (classes >= 0) & (classes < NUM_CLASSES)
        assert torch.equal(features, res5[0][1][foreground])


@pytest.mark.parametrize("refine", [(), REFINE], ids=["one stage", "two stages"])
def test_mask_branch_may_train_on_predicted_boxes(refine):
    boxes = []
    for on_predictions in (False, True):
        heads = build_heads(
            *SGRN, *refine, *MASK, "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", on_predictions
        )
        torch.nn.init.constant_(heads.box_predictor.bbox_pred.bias, 1.0)
        mask = calls(heads.mask_head)
        head_losses(heads)
        boxes.append(mask[0][0][1][0].proposal_boxes.tensor)
    moved = boxes[1] - boxes[0]  # by a tenth of their size, and then they grow
    assert moved.shape[0] > 0 and (moved[:, 2:] > 1).all()


def test_precomputed_proposals():
    model = build(*SGRN, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", settle=False)
    inputs = batch(SIZES)
    for x, p in zip(inputs, scattered(), strict=True):
        x["proposals"] = p
    assert all(v.isfinite() for v in losses(model, inputs).values())
    assert all(
        len(d) > 0 for d in head_detections(model.roi_heads, [x["proposals"] for x in inputs])
    )


@forms
def test_bfloat16_autocast_stays_close(ours):
    heads = build_heads(*ours)
    scores = calls(heads.mechanism.predictor)
    head_detections(heads)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        head_detections(heads)
        result = head_losses(heads)
    expected, actual = scores[0][1][0], scores[1][1][0]
    assert (actual - expected).norm() / expected.norm() < 0.05
    sum(result.values()).backward()
    assert all(p.grad.isfinite().all() for p in heads.parameters())


@pytest.mark.parametrize(
    "ours",
    [*FORMS.values(), (*SGRN, *sgrn("TEST_ENSEMBLE", "union_nms"))],
    ids=[*FORMS, "FPN union_nms"],
)
@pytest.mark.filterwarnings("ignore")
def test_traced_model_equals_eager_at_two_sizes(ours):
    # Enough proposals that their number depends on the image.
    model = build(*ours, "MODEL.RPN.POST_NMS_TOPK_TEST", 1000)
    graph = calls(model.roi_heads.mechanism.graph)
    first, second = (batch((size,))[0]["image"] for size in ((64, 96), (96, 160)))
    for image in (first, second):
        height, width = image.shape[1:]
        detections(model, [{"image": image, "height": height, "width": width}])
    assert len({len(args[0]) for args, _ in graph}) == 2

    def inference(m, inputs):
        return [{"instances": m.inference(inputs, do_postprocess=False)[0]}]

    adapter = TracingAdapter(model, [{"image": first}], inference)
    with torch.no_grad():
        traced = torch.jit.trace(adapter, (first,), check_trace=False)
        for image in (first, second):
            expected = inference(model, [{"image": image}])[0]["instances"]
            actual = adapter.outputs_schema(traced(image))[0]["instances"]
            assert_same_detections([actual], [expected], rtol=0, atol=1e-5)


# ---- configuration ----


WRONG = [
    ("GRAPH_DIMS", [32, 12], r"must be .*\b8, got [\[(]32, 12[\])]"),
    ("LOSS_WEIGHTS", [1.0], r"must be .*got \[1.0\]"),
    ("SHARE_FC", False, ".*set REFINE True or SHARE_FC True"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG, ids=lambda v: str(v).split(" ")[0])
def test_wrong_values_are_named_at_build_time(key, value, message):
    with pytest.raises(ValueError, match=rf"MODEL\.SGRN\.{key} {message}"):
        build_heads(*SGRN, *sgrn(key, value))


def test_options_that_exclude_one_another_are_named_at_build_time():
    with pytest.raises(
        ValueError, match=r"set FOREGROUND_EDGES False, or EDGE_NORM softmax or joint"
    ):
        build_heads(*SGRN, *sgrn("FOREGROUND_EDGES", True), *sgrn("EDGE_NORM", "none"))
    with pytest.raises(ValueError, match=r"MODEL\.SGRN\.SHARE_FC False needs a box head"):
        build_heads(*C4_SGRN, *REFINE, *sgrn("SHARE_FC", False))


def test_the_keys_reach_the_graph():
    assert build_heads(*SGRN).mechanism.graph.node_dim == 65
    keys = {"GRAPH_DIMS": [24, 12], "NUM_KERNELS": 4, "NUM_NEIGHBORS": 3, "LATENT_DIM": 6,
            "DROPOUT": 0.25, "POOL_BIAS": False, "SIMILARITY": "cosine", "EDGE_NORM": "joint",
            "EDGE_LAYERS": "all", "KERNEL_NORM": "none", "COVARIANCE": "full", "ANGLE": "arctan",
            "OUT_NORM": ""}  # fmt: skip
    heads = build_heads(*SGRN, *[x for pair in keys.items() for x in sgrn(*pair)])
    graph = heads.mechanism.graph
    assert (graph.dim, graph.node_dim, graph.out_dim) == (64, 64, 12)
    assert (graph.num_neighbors, graph.angle, graph.dropout.p) == (3, "arctan", 0.25)
    assert graph.learner.similarity == "cosine" and graph.learner.fc1.out_features == 6
    assert isinstance(graph.norm, torch.nn.Identity)
    for conv, width in zip(graph.convs, (24, 12), strict=True):
        assert (conv.num_kernels, conv.linear.out_features) == (4, width)
        assert (conv.edge_norm, conv.kernel_norm) == ("joint", "none")
        assert conv.kernels.shear is not None and conv.kernels.angle == "arctan"
    assert heads.mechanism.predictor.cls_score.in_features == 64 + 12


@pytest.mark.parametrize("name", ["SGRNROIHeads", "Res5SGRNROIHeads"])
def test_a_config_of_detectron2_alone_is_enough(name):
    from detectron2.config import get_cfg

    opts = (*(C4 if "Res5" in name else ()), "MODEL.ROI_HEADS.NAME", name)
    cfg = tiny_cfg([], [], NUM_CLASSES, "unused", opts, base=get_cfg())
    assert "SGRN" not in cfg.MODEL
    model = build_model(cfg)
    assert model.roi_heads.mechanism.graph.out_dim == 256
