"""SGRN ROI heads with two stages: refined boxes, their rows and labels, what both stages detect."""

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torch import nn

from relation_heads.modeling.roi_heads.refine import best_foreground_boxes
from relation_heads.modeling.roi_heads.seam import Classified
from tests.modeling.common import (
    C4_SGRN,
    NO_GRAPH,
    NUM_CLASSES,
    REFINE,
    SGRN,
    SIZES,
    assert_same_detections,
    batch,
    build_heads,
    calls,
    head_detections,
    head_losses,
    maps,
    results,
    scattered,
    second_stage_gradients,
)

HEIGHT, WIDTH = SIZES[0]
bases = pytest.mark.parametrize("base", [SGRN, C4_SGRN], ids=["FPN", "C4"])
samplings = pytest.mark.parametrize("sampling", ["loss", "regions", "off"])
AGNOSTIC = ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)


def two_stages(*opts):
    """Heads whose base predictor moves boxes, each class in its own way, and takes every region
    for background."""
    heads = build_heads(*opts, *REFINE)
    torch.manual_seed(6)
    nn.init.normal_(heads.box_predictor.cls_score.weight)
    nn.init.constant_(heads.box_predictor.cls_score.bias[-1:], 100.0)
    nn.init.normal_(heads.box_predictor.bbox_pred.bias, std=1.5)  # 0.15 widths, 0.3 in log size
    return heads


def refined(heads, predictions, proposals):
    """What the boxes of the second stage must be, and which of them are not empty."""
    scores, deltas = predictions
    old = torch.cat([p.proposal_boxes.tensor for p in proposals])
    boxes = heads.box_predictor.box2box_transform.apply_deltas(deltas, old)
    boxes = boxes.view(len(old), -1, 4)
    if boxes.shape[1] > 1:
        boxes = boxes[range(len(old)), scores[:, :NUM_CLASSES].argmax(1)]
    boxes = boxes.reshape(-1, 4).clamp(min=0)
    boxes = boxes.minimum(torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])).detach()
    return boxes, (boxes[:, 2:] > boxes[:, :2]).all(1)


def features_of(heads, boxes):
    """The box features of per-image boxes, computed outside `forward`."""
    boxes = [Boxes(b) for b in boxes]
    if hasattr(heads, "res5"):
        return heads._shared_roi_transform([maps()["res4"]], boxes).mean([2, 3])
    return heads.box_head(heads.box_pooler([maps()[f] for f in heads.box_in_features], boxes))


# ---- boxes ----


@bases
@samplings
def test_rows_follow_the_refined_boxes(base, sampling):
    heads = two_stages(*base, "MODEL.SGRN.SAMPLING", sampling)
    first = results(heads, "label_and_sample_proposals")
    predictor, stage = calls(heads.box_predictor), results(heads.mechanism, "_predict")
    head_losses(heads, scattered((40, 50)))
    (_, proposals), (_, predictions) = first[0], predictor[0]
    (x, base, _), _ = stage[0]
    logits, regions = base.logits, base.regions
    assert base.predictor is heads.box_predictor

    boxes, full = refined(heads, predictions, proposals)
    distance = (regions.boxes[:, None] - boxes[None]).abs().amax(-1)  # (second stage, first)
    rows = distance.argmin(1)
    assert distance.amin(1).max() < 1e-4
    assert sorted(rows.tolist()) == full.nonzero()[:, 0].tolist()  # each once
    torch.testing.assert_close(logits, predictions[0][rows], rtol=0, atol=0)
    in_order = rows.tolist() == sorted(rows.tolist())
    assert in_order == (sampling != "regions")
    expected = features_of(heads, regions.split(regions.boxes))
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)


@bases
def test_at_test_time_every_box_keeps_its_row(base):
    heads = two_stages(*base)
    predictor, stage = calls(heads.box_predictor), results(heads.mechanism, "_predict")
    head_detections(heads)
    (x, base, _), _ = stage[0]
    logits, regions = base.logits, base.regions
    boxes, _ = refined(heads, predictor[0][1], scattered())
    torch.testing.assert_close(regions.boxes, boxes)
    assert torch.equal(logits, predictor[0][1][0])
    expected = features_of(heads, regions.split(regions.boxes))
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)


@bases
@pytest.mark.parametrize("agnostic", [(), AGNOSTIC], ids=["per class", "agnostic"])
def test_the_second_stage_sends_no_gradient_through_its_boxes(base, agnostic):
    heads = two_stages(*base, *agnostic)
    resampled = results(heads.mechanism.resampler, "label_and_sample_proposals")
    gradients = second_stage_gradients(
        heads, "box_predictor.bbox_pred.weight", "box_predictor.bbox_pred.bias"
    )
    assert not any(g.any() for g in gradients)
    for before, after in zip(resampled[0][0][0], resampled[0][1], strict=True):
        assert not before.proposal_boxes.tensor.requires_grad
        assert not after.proposal_boxes.tensor.requires_grad
        x1, y1, x2, y2 = after.proposal_boxes.tensor.unbind(1)
        assert x1.min() >= 0 and y1.min() >= 0 and x2.max() <= WIDTH and y2.max() <= HEIGHT


def test_class_agnostic_boxes_are_the_predicted_ones():
    heads = two_stages(*SGRN, *AGNOSTIC)
    predictor, stage = calls(heads.box_predictor), results(heads.mechanism, "_predict")
    head_detections(heads)
    boxes, _ = refined(heads, predictor[0][1], scattered())
    assert predictor[0][1][1].shape == (40, 4)
    torch.testing.assert_close(stage[0][0][1].regions.boxes, boxes)


def test_the_best_class_is_never_the_background():
    predictor = build_heads(*SGRN, "MODEL.ROI_HEADS.NUM_CLASSES", 3).box_predictor
    deltas, x = torch.randn(2, 12), torch.randn(2, 64)
    logits = torch.tensor([[0.0, 2.0, 1.0, 9.0], [0.0, 1.0, 2.0, -9.0]])
    proposals = scattered((1, 1))
    boxes = torch.cat(predictor.predict_boxes((logits, deltas), proposals))  # (2, 12)
    best = torch.cat(best_foreground_boxes(Classified(x, predictor, (logits, deltas), proposals)))
    assert torch.equal(best, torch.stack([boxes[0, 4:8], boxes[1, 8:]]))
    shared = best_foreground_boxes(Classified(x, predictor, (logits, deltas[:, :4]), proposals))
    assert torch.equal(torch.cat(shared), boxes[:, :4])


@bases
def test_boxes_outside_the_image_leave_in_training_alone(base):
    heads = two_stages(*base)
    bias = torch.zeros(NUM_CLASSES, 4)
    bias[:, 0] = 20.0  # two widths to the right
    with torch.no_grad():
        heads.box_predictor.bbox_pred.bias.copy_(bias.flatten())
    stage = results(heads.mechanism, "_predict")
    assert all(v.isfinite() for v in head_losses(heads).values())
    head_detections(heads)
    (trained, tested) = (args[1].regions.boxes for args, _ in stage)
    assert 0 < len(trained) < 48 and (trained[:, 2:] > trained[:, :2]).all()
    assert len(tested) == 40 and (tested[:, 0] == tested[:, 2]).any()

    bias[:, 0] = 1000.0
    with torch.no_grad():
        heads.box_predictor.bbox_pred.bias.copy_(bias.flatten())
    result = head_losses(heads)  # nothing is left
    assert len(stage[2][0][1].regions) == 0
    sum(result.values()).backward()
    assert all(p.grad.isfinite().all() for p in heads.parameters())


# ---- labels ----


def overlapping(iou):
    """One object per image, and one proposal that has this IoU with it."""
    targets = [x["instances"] for x in batch(SIZES, objects=1)]
    proposals = []
    for target in targets:
        proposals.append(Instances(target.image_size, objectness_logits=torch.zeros(1)))
        boxes = target.gt_boxes.tensor.clone()
        boxes[:, 2] = boxes[:, 0] + iou * (boxes[:, 2] - boxes[:, 0])
        proposals[-1].proposal_boxes = Boxes(boxes)
    return proposals, targets


@bases
@pytest.mark.parametrize(
    ("iou", "ious", "foreground"),
    [
        (0.55, (), False),
        (0.65, (), True),
        (0.55, (0.5, 0.5, 0.7), True),
        (0.65, (0.5, 0.7, 0.7), False),
    ],
)
def test_refined_boxes_are_labelled_at_the_second_iou(base, iou, ious, foreground):
    ious = ("MODEL.ROI_BOX_CASCADE_HEAD.IOUS", ious) if ious else ()
    heads = build_heads(*base, *REFINE, *ious, "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", False)
    nn.init.zeros_(heads.box_predictor.bbox_pred.weight)  # boxes stay
    first, second = (
        results(owner, "label_and_sample_proposals") for owner in (heads, heads.mechanism.resampler)
    )
    proposals, targets = overlapping(iou)
    head_losses(heads, proposals, targets)
    for labelled, relabelled, target in zip(first[0][1], second[0][1], targets, strict=True):
        assert torch.equal(labelled.gt_classes, target.gt_classes)
        assert relabelled.gt_classes.item() == (
            target.gt_classes.item() if foreground else NUM_CLASSES
        )


@samplings
def test_refined_boxes_are_sampled_anew(sampling):
    heads = two_stages(*SGRN, "MODEL.SGRN.SAMPLING", sampling)
    nn.init.zeros_(heads.box_predictor.bbox_pred.bias)
    second = results(heads.mechanism.resampler, "label_and_sample_proposals")
    targets = [x["instances"] for x in batch(SIZES)]
    head_losses(heads, scattered((60, 70)), targets)
    for proposals, target in zip(second[0][1], targets, strict=True):
        kept = proposals[proposals.gt_classes >= 0]
        assert len(kept) == (len(proposals) if sampling == "off" else 32)
        iou, match = pairwise_iou(target.gt_boxes, kept.proposal_boxes).max(dim=0)
        expected = target.gt_classes[match].masked_fill(iou < 0.6, NUM_CLASSES)
        assert torch.equal(kept.gt_classes, expected)
        assert torch.equal(kept.gt_boxes.tensor, target.gt_boxes.tensor[match])
        assert (kept.gt_classes < NUM_CLASSES).sum() >= 4  # the objects themselves


@samplings
def test_appended_ground_truth_stays_without_an_answer(sampling):
    heads = build_heads(*SGRN, *REFINE, "MODEL.SGRN.SAMPLING", sampling)
    nn.init.zeros_(heads.box_predictor.bbox_pred.weight)  # boxes stay, and can be recognised
    stage = results(heads.mechanism, "_predict")
    targets = [x["instances"] for x in batch(SIZES)]
    head_losses(heads, targets=targets)
    regions = stage[0][0][1].regions
    for boxes, is_key, target in zip(
        regions.split(regions.boxes), regions.split(regions.is_key), targets, strict=True
    ):
        distance = (boxes[:, None] - target.gt_boxes.tensor[None]).abs().amax(-1).amin(1)
        assert (distance < 1e-3).sum() == 4
        assert torch.equal(is_key, distance >= 1e-3)


def test_both_stages_are_logged_each_under_its_name():
    heads = build_heads(*SGRN, *REFINE)
    with EventStorage() as storage:
        heads(None, maps(), scattered(), [x["instances"] for x in batch(SIZES)])
        logged = set(storage.latest())
    names = {"roi_head/num_fg_samples", "roi_head/num_bg_samples", "fast_rcnn/cls_accuracy"}
    assert names | {f"sgrn/{n}" for n in names} <= logged


# ---- heads ----


@pytest.mark.parametrize("share", [True, False])
def test_the_second_stage_may_have_a_box_head_of_its_own(share):
    heads = build_heads(
        *SGRN, *REFINE, "MODEL.SGRN.SHARE_FC", share, "MODEL.SGRN.NODE_EMBED", "hard"
    )
    (gradient,) = second_stage_gradients(heads, "box_head.fc1.weight")
    assert gradient.any() == share
    if not share:
        (gradient,) = second_stage_gradients(heads, "mechanism.box_head.fc1.weight")
        assert gradient.any()
        assert not torch.equal(heads.mechanism.box_head.fc1.weight, heads.box_head.fc1.weight)
    else:
        assert heads.mechanism.box_head is None


def test_the_twin_without_a_graph_is_a_second_predictor_of_the_box_features():
    heads = build_heads(*SGRN, *REFINE, *NO_GRAPH)
    assert {n.split(".")[0] for n, _ in heads.mechanism.named_parameters()} == {"predictor"}
    stage = results(heads.mechanism, "_predict")
    head_detections(heads)
    (x, *_), predictions = stage[0]
    for actual, expected in zip(predictions, heads.mechanism.predictor(x), strict=True):
        assert torch.equal(actual, expected)


# ---- ensembles ----

ALL_BOXES = ("MODEL.ROI_HEADS.NMS_THRESH_TEST", 1.0, "TEST.DETECTIONS_PER_IMAGE", -1)
stages = pytest.mark.parametrize(
    "ours",
    [SGRN, (*SGRN, *REFINE), (*C4_SGRN, *REFINE), (*SGRN, *REFINE, *AGNOSTIC)],
    ids=["one stage", "two stages", "C4 two stages", "two stages, agnostic boxes"],
)


def detected(ours, ensemble, *opts):
    """Detections, the outputs of both stages, and the proposals of the second."""
    heads = build_heads(*ours, *opts, "MODEL.SGRN.TEST_ENSEMBLE", ensemble)
    for predictor in (heads.box_predictor, heads.mechanism.predictor):
        nn.init.normal_(predictor.cls_score.weight, std=0.3)  # so that stages disagree
        nn.init.normal_(predictor.bbox_pred.weight, std=0.3)
    base, stage = calls(heads.box_predictor), results(heads.mechanism, "_predict")
    found = head_detections(heads)
    proposals = scattered()
    regions = stage[0][0][1].regions
    for per_image, boxes in zip(proposals, regions.split(regions.boxes), strict=True):
        per_image.proposal_boxes = Boxes(boxes)
    return heads, found, base[0][1], stage[0][1], proposals


@stages
def test_the_last_stage_detects_by_default(ours):
    heads, found, _, last, proposals = detected(ours, "last")
    expected, _ = heads.mechanism.predictor.inference(last, proposals)
    assert_same_detections(found, expected, rtol=0, atol=0)
    assert build_heads(*SGRN).mechanism.ensemble == "last"


@stages
def test_mean_detects_from_the_mean_of_the_logits(ours):
    heads, found, base, last, proposals = detected(ours, "mean")
    mean = (base[0] + last[0]) / 2
    expected, _ = heads.mechanism.predictor.inference((mean, last[1]), proposals)
    assert_same_detections(found, expected, rtol=0, atol=1e-6)
    others, _ = heads.mechanism.predictor.inference(last, proposals)
    assert found[0].scores[0] != others[0].scores[0]


@stages
def test_union_nms_contains_what_both_stages_find(ours):
    def rows(instances):
        fields = [instances.scores[:, None], instances.pred_boxes.tensor]
        table = torch.cat([*fields, instances.pred_classes[:, None]], dim=1)
        return table[table[:, 0].argsort(stable=True)]

    heads, found, base, last, proposals = detected(ours, "union_nms", *ALL_BOXES)
    first, _ = heads.box_predictor.inference(base, scattered())
    second, _ = heads.mechanism.predictor.inference(last, proposals)
    for union, *both in zip(found, first, second, strict=True):
        assert len(union) == 2 * 20 * NUM_CLASSES
        torch.testing.assert_close(rows(union), rows(Instances.cat(both)))

    _, pruned, *_ = detected(ours, "union_nms", "TEST.DETECTIONS_PER_IMAGE", -1)
    for union, kept in zip(found, pruned, strict=True):
        assert 0 < len(kept) < len(union)
        assert set(kept.scores.tolist()) <= set(union.scores.tolist())
