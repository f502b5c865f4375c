"""Cascade R-CNN: every stage's box head may listen to regions; a mechanism takes the last one's
place in the mean over stages."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.utils.events import EventStorage
from torch import nn

from tests.layers.reference_object_relation import relate_image
from tests.modeling.common import (
    CASCADE,
    CASCADE_REASONING,
    CASCADE_REASONING_RCNN,
    CASCADE_RELATION,
    CASCADE_SGRN,
    KEYPOINT,
    MASK,
    NUM_CLASSES,
    REFINE,
    RELATION,
    SIZES,
    assert_batch_equals_image_by_image,
    assert_same_detections,
    batch,
    build_heads,
    calls,
    gradients,
    head_detections,
    head_losses,
    maps,
    results,
    scattered,
)

STAGES = range(3)
LEARN = ("MODEL.DUPLICATE_REMOVAL.LEARN", True)
LEARNED = (*LEARN, "MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "learned")
NOTHING = (*CASCADE, "MODEL.ROI_HEADS.NAME", "CascadeDuplicateRemovalROIHeads")
# name -> (keys, names of the new losses, beginnings of the names of new parameters)
HEADS = {
    "nothing": (NOTHING, (), ()),
    "relation": (
        CASCADE_RELATION,
        (),
        tuple(f"box_head.{k}.relation{r}." for k in STAGES for r in (1, 2)),
    ),
    "SGRN": (
        CASCADE_SGRN,
        ("loss_cls_sgrn", "loss_box_reg_sgrn"),
        ("mechanism.graph.", "mechanism.predictor."),
    ),
    "SGRN two stages": (
        (*CASCADE_SGRN, *REFINE),
        ("loss_cls_sgrn", "loss_box_reg_sgrn"),
        ("mechanism.graph.", "mechanism.predictor."),
    ),
    "Reasoning-RCNN": (
        CASCADE_REASONING_RCNN,
        ("loss_cls_reasoning_rcnn", "loss_box_reg_reasoning_rcnn"),
        ("mechanism.graph.", "mechanism.predictor."),
    ),
    "reasoning": (
        CASCADE_REASONING,
        ("loss_cls_local", "loss_cls_global", "loss_cls_final"),
        ("mechanism.reasoner.memory.", "mechanism.reasoner.graph."),
    ),
}
heads_ = pytest.mark.parametrize(("keys", "new_losses", "new"), HEADS.values(), ids=HEADS)
ends = pytest.mark.parametrize("end", [(), LEARNED], ids=["nms", "learned"])


def stage_names(*stages):
    return [f"loss_{kind}_stage{k}" for k in stages for kind in ("cls", "box_reg")]


def moving(*opts):
    """Heads whose stages move boxes and disagree about them."""
    heads = build_heads(*opts)
    torch.manual_seed(6)
    for predictor in heads.box_predictor:
        nn.init.normal_(predictor.cls_score.weight, std=0.3)
        nn.init.normal_(predictor.bbox_pred.weight, std=0.3)
    return heads


# ---- parameters and losses ----


@ends
@heads_
def test_a_step_trains_every_parameter(keys, new_losses, new, end):
    stock, heads = build_heads(*CASCADE), build_heads(*keys, *end, *MASK, *KEYPOINT)
    expected = [*stage_names(*STAGES), *new_losses]
    result = head_losses(heads)
    last = ["loss_duplicates"] if end else []
    assert list(result) == [*expected, "loss_mask", "loss_keypoint", *last]
    assert all(v.isfinite() for v in result.values())
    sum(result.values()).backward()
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    names = {n for n, _ in heads.named_parameters() if not n.startswith(("mask_", "keypoint_"))}
    names -= {n for n, _ in stock.named_parameters()}
    new = (*new, *(["end.network."] if end else []))
    assert all(n.startswith(new) for n in names)
    assert all(any(n.startswith(part) for n in names) for part in new)


@heads_
def test_stock_checkpoint_loads_completely(keys, new_losses, new):
    stock, heads = build_heads(*CASCADE), build_heads(*keys)
    with torch.no_grad():  # heads from one seed are equal before anything is loaded
        for parameter in stock.parameters():
            parameter.add_(0.01)
    result = heads.load_state_dict(stock.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert bool(result.missing_keys) == bool(new)
    assert all(name.startswith(new) for name in result.missing_keys)


@heads_
def test_stages_are_logged_under_their_names(keys, new_losses, new):
    heads = build_heads(*keys)
    with EventStorage() as storage:
        heads(None, maps(), scattered(), [x["instances"] for x in batch(SIZES)])
        logged = set(storage.latest())
    assert {f"stage{k}/fast_rcnn/cls_accuracy" for k in STAGES} <= logged
    assert {"roi_head/num_fg_samples", "stage1/roi_head/num_fg_samples"} <= logged
    assert ("sgrn/fast_rcnn/cls_accuracy" in logged) == ("loss_cls_sgrn" in new_losses)


# ---- which regions ----


@pytest.mark.parametrize("keys", [CASCADE_RELATION, CASCADE_SGRN], ids=["relation", "SGRN"])
def test_what_is_outside_the_loss_of_the_first_stage_stays_outside(keys):
    heads = moving(*keys)
    labelled = results(heads, "label_and_sample_proposals")
    refined = results(heads, "_refined")
    in_loss = [results(predictor, "losses") for predictor in heads.box_predictor]
    head_losses(heads, scattered((60, 70)))  # more than the sample of 32
    assert [stage for (_, stage, _), _ in refined] == [1, 2]
    labels = [p.gt_classes for p in labelled[0][1]]
    assert all((p >= 0).sum() == 32 for p in labels)
    for (_, stage, _), (_, proposals) in refined:
        labels = [old[p.row] for old, p in zip(labels, proposals, strict=True)]
        for old, p in zip(labels, proposals, strict=True):
            assert (old < 0).any()
            assert torch.equal(p.gt_classes < 0, old < 0)
            assert ((p.gt_classes[old >= 0] >= 0) & (p.gt_classes[old >= 0] <= NUM_CLASSES)).all()
        ((logits, _), kept), _ = in_loss[stage][0]
        assert len(logits) == sum(int((old >= 0).sum()) for old in labels)
        assert all((p.gt_classes >= 0).all() for p in kept)


def test_relation_modules_of_every_stage_see_the_boxes_of_their_stage():
    heads = moving(*CASCADE_RELATION)
    pooled = calls(heads.box_pooler)
    told = [[calls(getattr(head, f"relation{r}")[0]) for r in (1, 2)] for head in heads.box_head]
    for train in (True, False):
        head_losses(heads) if train else head_detections(heads)
        boxes = [torch.cat([b.tensor for b in args[1]]) for args, _ in pooled]
        assert len(boxes) == 3 and not boxes[0].requires_grad
        for k in STAGES:
            for seen in told[k]:
                (((x, regions), _),) = seen
                assert torch.equal(regions.boxes, boxes[k]) and len(x) == len(boxes[k])
                assert (regions.is_key is not None) == train
                seen.clear()
        if not train:  # no row has left
            assert all((boxes[k] - boxes[k - 1]).abs().max() > 1 for k in (1, 2))
        pooled.clear()


def test_appended_ground_truth_does_not_answer_in_any_stage():
    heads = build_heads(*CASCADE_RELATION)
    for predictor in heads.box_predictor:
        nn.init.zeros_(predictor.bbox_pred.weight)  # boxes stay, and can be recognised
    told = [calls(head.relation1[0]) for head in heads.box_head]
    targets = [x["instances"] for x in batch(SIZES)]
    head_losses(heads, targets=targets)
    for seen in told:
        (((_, regions), _),) = seen
        rows = regions.split(regions.boxes), regions.split(regions.is_key), targets
        for boxes, is_key, target in zip(*rows, strict=True):
            distance = (boxes[:, None] - target.gt_boxes.tensor[None]).abs().amax(-1).amin(1)
            assert torch.equal(is_key, distance > 1e-3) and (~is_key).sum() == 4


@pytest.mark.parametrize("end", [(), LEARN], ids=["nms", "learned"])
def test_relation_modules_of_every_stage_are_trained(end):
    found = gradients(build_heads(*CASCADE_RELATION, *end))
    relations = {n: g for n, g in found.items() if ".relation" in n}
    assert {n.split(".")[1] for n in relations} == {"0", "1", "2"}
    for name, gradient in relations.items():  # softmax cannot tell the bias of the keys
        assert gradient.any() or name.endswith("key.bias"), name


# ---- detections ----


def by_hand(heads, logits, deltas, transform, boxes, proposals):
    """Detections of the mean of three probabilities and of the boxes of the last."""
    probabilities = sum(x.softmax(dim=1) for x in logits) / 3
    corners = transform.apply_deltas(deltas, boxes)
    counts = [len(p) for p in proposals]
    last = heads.box_predictor[-1]
    found, _ = fast_rcnn_inference(
        corners.split(counts),
        probabilities.split(counts),
        [p.image_size for p in proposals],
        0.0,
        last.test_nms_thresh,
        last.test_topk_per_image,
    )
    return found


def test_detections_are_of_the_mean_over_stages_with_the_mechanism_in_place_of_the_last():
    proposals = scattered()

    heads = moving(*CASCADE_SGRN)
    nn.init.normal_(heads.mechanism.predictor.cls_score.weight, std=0.3)
    stages = [calls(p) for p in heads.box_predictor]
    last, pooled = calls(heads.mechanism.predictor), calls(heads.box_pooler)
    found = head_detections(heads, proposals)
    logits = [stages[0][0][1][0], stages[1][0][1][0], last[0][1][0]]
    boxes = torch.cat([b.tensor for b in pooled[2][0][1]])
    transform = heads.mechanism.predictor.box2box_transform
    assert transform.weights == (10.0, 10.0, 5.0, 5.0)
    expected = by_hand(heads, logits, last[0][1][1], transform, boxes, proposals)
    assert_same_detections(found, expected, rtol=0, atol=1e-6)
    logits[-1] = stages[2][0][1][0]  # the base classification alone detects something else
    others = by_hand(heads, logits, last[0][1][1], transform, boxes, proposals)
    assert (others[0].scores[:5] - found[0].scores[:5]).abs().max() > 1e-4

    heads = moving(*CASCADE_REASONING)
    stages = [calls(p) for p in heads.box_predictor]
    reasoner, pooled = calls(heads.mechanism.reasoner), calls(heads.box_pooler)
    found = head_detections(heads, proposals)
    logits = [stages[0][0][1][0], stages[1][0][1][0], reasoner[0][1].final]
    boxes = torch.cat([b.tensor for b in pooled[2][0][1]])
    transform = heads.box_predictor[2].box2box_transform
    assert transform.weights == (30.0, 30.0, 15.0, 15.0)
    deltas = stages[2][0][1][1]
    expected = by_hand(heads, logits, deltas, transform, boxes, proposals)
    assert_same_detections(found, expected, rtol=0, atol=1e-6)


@ends
@heads_
def test_batch_equals_image_by_image(keys, new_losses, new, end):
    heads, features, proposals = build_heads(*keys, *end), maps(), scattered((20, 7))
    assert_batch_equals_image_by_image(heads, proposals, features)


@ends
@heads_
def test_no_proposals_and_no_objects(keys, new_losses, new, end):
    heads = build_heads(*keys, *end)
    empty, full = ([x["instances"] for x in batch(SIZES, objects=n)] for n in (0, 4))
    result = head_losses(heads, targets=empty)
    assert all(v.isfinite() for v in result.values())
    assert all(value == 0 for name, value in result.items() if "box_reg" in name)
    for counts, targets in (((0, 0), empty), ((0, 9), [empty[0], full[1]]), ((0, 0), full)):
        heads.zero_grad()
        result = head_losses(heads, scattered(counts), targets)
        sum(result.values()).backward()
        for name, parameter in heads.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert [len(d) for d in head_detections(heads, scattered((0, 0)))] == [0, 0]
    assert [len(d) > 0 for d in head_detections(heads, scattered((0, 9)))] == [False, True]


def test_boxes_outside_the_image_leave_in_training_alone():
    heads = build_heads(*CASCADE_RELATION)
    with torch.no_grad():  # by ten widths of a box to the right
        heads.box_predictor[0].bbox_pred.bias.copy_(torch.tensor([100.0, 0, 0, 0]))
    told = calls(heads.box_head[1].relation1[0])
    assert all(v.isfinite() for v in head_losses(heads).values())
    head_detections(heads)
    (trained, tested) = (args[1] for args, _ in told)
    assert len(trained) < 40 + 8 and len(tested) == 40


def test_learned_removal_takes_the_scores_of_the_mean_however_small():
    """Of a class that all stages give a probability of 0 the logarithm is finite."""
    heads = moving(*NOTHING, *LEARNED)
    for predictor in heads.box_predictor:
        nn.init.constant_(predictor.cls_score.bias[:1], -300.0)
    assert all(g.isfinite().all() for g in gradients(heads).values())
    found = head_detections(heads)
    assert all(len(d) > 0 and (d.pred_classes != 0).any() for d in found)


def test_predictors_of_thousands_of_classes_keep_the_box_weights_of_their_stage():
    heads = build_heads(*NOTHING, "MODEL.ROI_HEADS.NUM_CLASSES", 301)
    weights = [p.box2box_transform.weights for p in heads.box_predictor]
    assert [tuple(w) for w in weights] == [
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    ]


# ---- relations between the boxes of two stages ----

BETWEEN = (*CASCADE_RELATION, "MODEL.RELATION.BETWEEN_STAGES", True,
           "MODEL.RELATION.GEOMETRY", "position")  # fmt: skip


def related(heads, run):
    """Of each stage what its first relation module gets and gives: ((x, regions), result)."""
    seen = [calls(stage.relation1[0]) for stage in heads.box_head]
    run(heads)
    return [stage[0] for stage in seen]


@pytest.mark.parametrize("run", [head_losses, head_detections])
def test_a_region_asks_from_its_box_of_the_stage_before(run):
    heads = moving(*BETWEEN)
    refined = results(heads, "_refined")
    stages = related(heads, run)
    first = stages[0][0][1]
    assert first.earlier is None
    before = first
    for ((_, regions), _), (_, (base, _)) in zip(stages[1:], refined, strict=True):
        kept = torch.cat([p.proposal_boxes.tensor for p in base.proposals])
        assert torch.equal(regions.earlier, kept)
        if run is head_detections:  # every row stays
            assert torch.equal(regions.earlier, before.boxes)
        assert not torch.equal(regions.earlier, regions.boxes)
        before = regions
    for k, ((x, regions), result) in enumerate(stages):
        earlier = regions.split(regions.earlier) if k else [None, None]
        module, keys = heads.box_head[k].relation1[0], regions.is_key
        is_key = regions.split(torch.ones(len(regions)).bool() if keys is None else keys)
        f, box, told = regions.split(x)[1], regions.split(regions.boxes)[1], is_key[1].tolist()
        expected = relate_image(module, f, box, told, earlier[1])
        torch.testing.assert_close(
            regions.split(result)[1].double(), expected, rtol=1e-3, atol=1e-4
        )


def test_by_default_a_region_asks_from_its_own_box():
    heads = moving(*CASCADE_RELATION)
    assert all(regions.earlier is None for (_, regions), _ in related(heads, head_detections))


@pytest.mark.parametrize(
    ("opts", "got"),
    [
        ((*RELATION, "MODEL.RELATION.BETWEEN_STAGES", True), "RelationROIHeads and 'relation'"),
        ((*BETWEEN, "MODEL.RELATION.GEOMETRY", "unary"), "CascadeRelationROIHeads and 'unary'"),
    ],
)
def test_between_stages_needs_stages_and_pairs_of_boxes(opts, got):
    with pytest.raises(ValueError, match=f"MODEL.RELATION.BETWEEN_STAGES True .* {got}"):
        build_heads(*opts)
