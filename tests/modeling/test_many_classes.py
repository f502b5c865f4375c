"""The predictor for thousands of classes against Detectron2's: losses, gradients, detections."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import nn

from relation_heads.modeling import many_classes
from relation_heads.modeling.many_classes import (
    MANY_CLASSES,
    ManyBoxesOutputLayers,
    ManyClassesOutputLayers,
    box_predictor,
    for_many_classes,
)
from tests.modeling.common import (
    C4,
    C4_REASONING,
    C4_RELATION,
    C4_SGRN,
    MASK,
    RCNN_REFINE,
    REASONING,
    REASONING_RCNN,
    REFINE,
    RELATION,
    SGRN,
    assert_same_detections,
    build_heads,
    calls,
    head_detections,
    head_losses,
    scattered,
)

HEADS = {
    "stock": ("MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads"),
    "C4 stock": (*C4, "MODEL.ROI_HEADS.NAME", "Res5DuplicateRemovalROIHeads"),
    "relation": RELATION,
    "C4 relation": C4_RELATION,
    "SGRN": SGRN,
    "SGRN two stages": (*SGRN, *REFINE),
    "SGRN, second losses alone": (*SGRN, "MODEL.SGRN.LOSS_WEIGHTS", [0.0, 1.0]),
    "SGRN mean": (*SGRN, "MODEL.SGRN.TEST_ENSEMBLE", "mean"),
    "C4 SGRN two stages": (*C4_SGRN, *REFINE),
    "Reasoning-RCNN": (*REASONING_RCNN, *RCNN_REFINE),
    "reasoning": REASONING,
    "C4 reasoning": C4_REASONING,
    "all proposals": (*RELATION, "MODEL.RELATION.SAMPLING", "off"),
}
UNION = (*SGRN, *REFINE, "MODEL.SGRN.TEST_ENSEMBLE", "union_nms")
LEARN = ("MODEL.DUPLICATE_REMOVAL.LEARN", True)
SOFT = ("MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "soft_nms")
AGNOSTIC = ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
TIGHT = {"rtol": 1e-5, "atol": 1e-6}
CLASSES, CHANNELS = MANY_CLASSES + 100, 24
boxes = pytest.mark.parametrize("agnostic", [False, True], ids=["per class", "agnostic"])


def _nms_by_class(boxes, scores, labels, iou_threshold):
    kept = [
        rows[torchvision.ops.nms(boxes[rows], scores[rows], iou_threshold)]
        for rows in ((labels == k).nonzero()[:, 0] for k in labels.unique())
    ]
    kept = torch.cat([labels[:0], *kept]).sort().values
    return kept[scores[kept].argsort(descending=True, stable=True)]


@pytest.fixture(autouse=True)
def _stock_nms_without_rounding(monkeypatch):
    """torchvision's `batched_nms` of few boxes moves classes apart in float32, which rounds the
    boxes of high classes; that of many boxes leaves open which of equal scores comes first."""
    for name in ("_batched_nms_coordinate_trick", "_batched_nms_vanilla"):
        monkeypatch.setattr(torchvision.ops.boxes, name, _nms_by_class)


# ---- the heads ----


def pair(monkeypatch, *opts):
    """Heads with Detectron2's predictors, and the same with ours."""
    stock = build_heads(*opts)
    monkeypatch.setattr(many_classes, "MANY_CLASSES", 0)
    ours = build_heads(*opts)
    for heads in (stock, ours):
        torch.manual_seed(7)
        for predictor in predictors(heads):
            nn.init.normal_(predictor.cls_score.weight, std=0.3)
            nn.init.normal_(predictor.bbox_pred.weight, std=0.1)
            nn.init.normal_(predictor.bbox_pred.bias, std=0.5)
    assert [type(p) for p in predictors(stock)] == len(predictors(ours)) * [FastRCNNOutputLayers]
    assert all(isinstance(p, ManyClassesOutputLayers) for p in predictors(ours))
    return stock, ours


def predictors(heads):
    return [m for m in heads.modules() if isinstance(m, FastRCNNOutputLayers)]


def assert_same_losses(ours, stock, tolerance=1e-4):
    """Losses, and gradients up to a part `tolerance` of their norm."""
    expected, found = head_losses(stock), head_losses(ours)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **TIGHT)
    sum(expected.values()).backward()
    sum(found.values()).backward()
    for (name, a), b in zip(ours.named_parameters(), stock.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            assert (a.grad - b.grad).norm() <= tolerance * b.grad.norm() + 1e-6, name


@boxes
@pytest.mark.parametrize("keys", HEADS.values(), ids=HEADS.keys())
def test_every_head_computes_what_it_did(keys, agnostic, monkeypatch):
    stock, ours = pair(monkeypatch, *keys, *(AGNOSTIC if agnostic else ()))
    assert ours.state_dict().keys() == stock.state_dict().keys()
    assert_same_detections(head_detections(ours), head_detections(stock), **TIGHT)
    # A float32 step of a refined box is enough for a ReLU of res5 to change sides.
    assert_same_losses(ours, stock, 5e-3 if keys[-2:] == REFINE else 1e-4)


@boxes
@pytest.mark.parametrize("keys", [RELATION, (*SGRN, *REFINE)], ids=["relation", "SGRN"])
@pytest.mark.parametrize("end", [LEARN, SOFT], ids=["learned", "soft"])
def test_with_other_ends_than_nms(keys, end, agnostic, monkeypatch):
    stock, ours = pair(monkeypatch, *keys, *end, *(AGNOSTIC if agnostic else ()))
    assert_same_detections(head_detections(ours), head_detections(stock), **TIGHT)
    assert_same_losses(ours, stock)


def test_the_union_of_two_stages(monkeypatch):
    stock, ours = pair(monkeypatch, *UNION)
    assert_same_detections(head_detections(ours), head_detections(stock), **TIGHT)


def test_masks_train_on_predicted_boxes(monkeypatch):
    keys = (*MASK, "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True)
    stock, ours = pair(monkeypatch, *RELATION, *keys)
    assert_same_losses(ours, stock)


@pytest.mark.parametrize("keys", [RELATION, (*SGRN, *REFINE)], ids=["relation", "SGRN"])
def test_no_head_computes_all_boxes(keys, monkeypatch):
    _, ours = pair(monkeypatch, *keys, "TEST.DETECTIONS_PER_IMAGE", 1)
    monkeypatch.setattr(many_classes, "DENSE", 1)
    seen = [calls(p.bbox_pred) for p in predictors(ours)]
    head_losses(ours)
    head_detections(ours)
    assert not any(seen)


@boxes
def test_the_number_of_classes_decides(agnostic):
    for count in (MANY_CLASSES, MANY_CLASSES + 1):
        keys = ("MODEL.ROI_HEADS.NUM_CLASSES", count, *(AGNOSTIC if agnostic else ()))
        heads = build_heads(*SGRN, *keys)
        ours = ManyClassesOutputLayers if agnostic else ManyBoxesOutputLayers
        expected = ours if count > MANY_CLASSES else FastRCNNOutputLayers
        assert {type(p) for p in predictors(heads)} == {expected}


@pytest.mark.parametrize("count", [MANY_CLASSES, MANY_CLASSES + 1])
@boxes
def test_a_predictor_that_is_built_already(count, agnostic):
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = count
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = agnostic
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.125
    stock = FastRCNNOutputLayers(cfg, ShapeSpec(channels=CHANNELS))
    nn.init.normal_(stock.cls_score.bias)
    before = torch.get_rng_state()
    found = for_many_classes(stock, cfg)
    assert torch.equal(torch.get_rng_state(), before)
    assert (found is stock) == (count <= MANY_CLASSES)
    assert type(found) is type(box_predictor(cfg, CHANNELS))
    assert (found.test_score_thresh, found.num_classes) == (0.125, count)
    for (name, ours), theirs in zip(
        found.state_dict().items(), stock.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_a_predictor_of_somebody_else_stays():
    class Mine(FastRCNNOutputLayers):
        pass

    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = CLASSES
    for mine in (Mine(cfg, ShapeSpec(channels=CHANNELS)), nn.Linear(3, 4)):
        assert for_many_classes(mine, cfg) is mine


# ---- the predictor ----


def outputs(agnostic=False, **options):
    """Ours and Detectron2's with the same parameters; few scores of the first are far from 0."""
    torch.manual_seed(0)
    stock, ours = (
        form(
            ShapeSpec(channels=CHANNELS),
            box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
            num_classes=CLASSES,
            cls_agnostic_bbox_reg=agnostic,
            **{"test_topk_per_image": 20, **options},
        )
        for form in (
            FastRCNNOutputLayers,
            ManyClassesOutputLayers if agnostic else ManyBoxesOutputLayers,
        )
    )
    nn.init.normal_(stock.cls_score.weight, std=0.7)
    nn.init.normal_(stock.bbox_pred.weight, std=0.3)
    nn.init.normal_(stock.bbox_pred.bias, std=0.3)
    ours.load_state_dict(stock.state_dict())
    return ours, stock


def regions(counts=(30, 25), *, foreground=0.5):
    """Features and labelled proposals; the objects are nearby boxes."""
    torch.manual_seed(1)
    proposals = scattered(counts)
    for p in proposals:
        p.gt_classes = torch.full((len(p),), CLASSES)
        is_object = torch.rand(len(p)) < foreground
        p.gt_classes[is_object] = torch.randint(CLASSES, (int(is_object.sum()),))
        p.gt_boxes = Boxes(p.proposal_boxes.tensor + torch.rand(len(p), 4))
    return torch.randn(sum(counts), CHANNELS), proposals


def step(predictor, x, proposals, dtype=torch.float32):
    """Losses and gradients of the features and the parameters."""
    x = x.to(dtype).requires_grad_(True)
    torch.manual_seed(4)  # federated loss draws classes
    with EventStorage():
        losses = predictor.to(dtype).losses(predictor.to(dtype)(x), proposals)
    inputs = [x, *predictor.parameters()]
    gradients = torch.autograd.grad(sum(losses.values()), inputs, allow_unused=True)
    return [*losses.values(), *gradients]


def assert_same_step(x, proposals, agnostic, options, dtype=torch.float32, **tolerance):
    ours, stock = outputs(agnostic, **options)
    found, expected = (step(p, x, proposals, dtype) for p in (ours, stock))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def counts_of_images():
    return torch.linspace(1, 2, CLASSES)


@boxes
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"smooth_l1_beta": 1.0},
        {"loss_weight": {"loss_box_reg": 3.0}},
        {"box_reg_loss_type": "giou"},
        {"box_reg_loss_type": "diou"},
        {"box_reg_loss_type": "ciou"},
        {"use_sigmoid_ce": True},
        {
            "use_sigmoid_ce": True,
            "use_fed_loss": True,
            "get_fed_loss_cls_weights": counts_of_images,
        },
    ],
    ids=lambda options: " ".join(str(v) for v in options.values())[:20],
)
def test_losses_and_gradients(options, agnostic):
    assert_same_step(*regions(), agnostic, options, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"smooth_l1_beta": 1.0}, {"use_sigmoid_ce": True}])
def test_losses_and_gradients_are_exact(options):
    x, proposals = regions()
    assert_same_step(x, proposals, False, options, torch.float64, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("counts", "foreground"), [((30, 25), 0.0), ((0, 9), 0.5), ((0,), 0.0)])
def test_without_objects_or_regions_gradients_are_zero_and_not_missing(counts, foreground):
    x, proposals = regions(counts, foreground=foreground)
    options = {"use_sigmoid_ce": True}  # the softmax loss of nothing is nan
    assert_same_step(x, proposals, False, options, rtol=1e-4, atol=1e-5)


@boxes
def test_boxes_of_the_labelled_classes(agnostic):
    x, proposals = regions()
    ours, stock = outputs(agnostic)
    for name in ("predict_boxes", "predict_boxes_for_gt_classes"):
        found, expected = (getattr(p, name)(p(x), proposals) for p in (ours, stock))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
        assert getattr(ours, name)(ours(x[:0]), []) == []


@torch.no_grad()
def assert_same_inference(ours, stock, x, proposals, rows=True, atol=1e-4):
    """The same detections of the same regions; returns theirs."""
    found, regions_found = ours.inference(ours(x), proposals)
    expected, regions_expected = stock.inference(stock(x), proposals)
    for a, b in zip(found, expected, strict=True):
        assert a.image_size == b.image_size and a.get_fields().keys() == b.get_fields().keys()
        assert torch.equal(a.pred_classes, b.pred_classes)
        assert torch.equal(a.scores, b.scores)
        torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor, rtol=0, atol=atol)
    if rows:
        assert all(map(torch.equal, regions_found, regions_expected))
    return found


@boxes
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize(
    ("threshold", "limit"), [(0.05, 20), (0.0, 20), (0.0, 300), (0.3, -1), (0.05, 0), (0.999999, 5)]
)
def test_detections(threshold, limit, sigmoid, agnostic):
    options = {"test_score_thresh": threshold, "test_topk_per_image": limit}
    ours, stock = outputs(agnostic, use_sigmoid_ce=sigmoid, **options)
    found = assert_same_inference(ours, stock, *regions((30, 0, 25)))
    assert len(found[1]) == 0 and len(found[0]) <= (limit if limit >= 0 else 10**6)
    if threshold < 0.9 and limit:
        assert len(found[0]) > 0


def test_shared_boxes_are_equal_bit_for_bit():
    ours, stock = outputs(agnostic=True)
    assert_same_inference(ours, stock, *regions(), atol=0)


@pytest.mark.parametrize(("dense", "called"), [(10**9, True), (0, False)])
def test_with_many_candidates_all_boxes_are_made_at_once(dense, called, monkeypatch):
    monkeypatch.setattr(many_classes, "DENSE", dense)
    monkeypatch.setattr(many_classes, "ROWS", 7)
    ours, stock = outputs()
    seen = calls(ours.bbox_pred)
    assert_same_inference(ours, stock, *regions((30,)))
    assert bool(seen) == called


def _inf_feature(x, proposals, predictors):
    x[3, 5] = torch.inf


def _nan_feature(x, proposals, predictors):
    x[3] = torch.nan


def _large_feature(x, proposals, predictors):
    x[3] = 3e38


def _nan_box(x, proposals, predictors):
    proposals[0].proposal_boxes.tensor[4, 1] = torch.nan


def _inf_class(x, proposals, predictors):
    for p in predictors:
        p.bbox_pred.bias.data[0] = torch.inf  # of the first class, or of all


@boxes
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("harm", [_inf_feature, _nan_feature, _large_feature, _nan_box, _inf_class])
def test_what_is_not_finite_is_left_out(harm, sigmoid, agnostic):
    pair_ = outputs(agnostic, use_sigmoid_ce=sigmoid)
    x, proposals = regions((30,))
    harm(x, proposals, pair_)
    found = assert_same_inference(*pair_, x, proposals, rows=False)
    assert (len(found[0]) == 0) == (harm is _inf_class)


def test_regions_are_numbered_as_given():
    ours, _ = outputs()
    x, proposals = regions((30,))
    with torch.no_grad():
        x[3] = torch.nan
        scores = ours.predict_probs(ours(x), proposals)[0]
        (found,), (rows,) = ours.inference(ours(x), proposals)
    assert 3 not in rows and torch.equal(scores[rows, found.pred_classes], found.scores)


def test_equal_scores_come_in_the_order_of_regions_and_classes():
    ours, _ = outputs(test_score_thresh=0.0, test_nms_thresh=1.0, test_topk_per_image=-1)
    nn.init.zeros_(ours.cls_score.weight)
    x, proposals = regions((4,))
    with torch.no_grad():
        (found,), (rows,) = ours.inference(ours(x), proposals)
    assert torch.equal(rows * CLASSES + found.pred_classes, torch.arange(4 * CLASSES))


def test_autocast():
    ours, stock = outputs(smooth_l1_beta=1.0)
    x, proposals = regions()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = (step(p, x, proposals) for p in (ours, stock))
        assert_same_inference(ours, stock, x, proposals, atol=2.0)  # pixels, for bfloat16 deltas
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.01)


def test_a_trace_computes_all_boxes(monkeypatch):
    monkeypatch.undo()  # a loop over classes cannot be traced

    class Detect(nn.Module):
        def __init__(self):
            super().__init__()
            self.predictor = outputs()[0]

        def forward(self, x):
            (found,), _ = self.predictor.inference(self.predictor(x), proposals)
            return found.pred_boxes.tensor, found.scores

    x, proposals = regions((30,))
    detect = Detect()
    with torch.no_grad(), pytest.warns(torch.jit.TracerWarning):
        traced = torch.jit.trace(detect, x, check_trace=False)
    for a, b in zip(traced(x.flip(0)), detect(x.flip(0)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
