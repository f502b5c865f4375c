"""The end of every ROI head: Detectron2's NMS, or Soft-NMS by one key."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

import torch
from torch import nn

from relation_heads.layers import soft_nms_per_class
from relation_heads.modeling.roi_heads import ReasoningMechanism, SGRNMechanism
from relation_heads.modeling.roi_heads.heads import at_test_time
from tests.modeling.common import (
    C4,
    C4_REASONING,
    C4_RELATION,
    C4_SGRN,
    CASCADE,
    CASCADE_REASONING,
    CASCADE_RELATION,
    CASCADE_SGRN,
    NUM_CLASSES,
    REASONING,
    REFINE,
    RELATION,
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
)

STOCK = ("MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads")
C4_STOCK = (*C4, "MODEL.ROI_HEADS.NAME", "Res5DuplicateRemovalROIHeads")
CASCADE_STOCK = (*CASCADE, "MODEL.ROI_HEADS.NAME", "CascadeDuplicateRemovalROIHeads")
HEADS = {
    "stock": STOCK,
    "C4 stock": C4_STOCK,
    "relation": RELATION,
    "C4 relation": C4_RELATION,
    "SGRN": SGRN,
    "SGRN without graph": (*SGRN, "MODEL.SGRN.GRAPH_DIMS", []),
    "SGRN two stages": (*SGRN, *REFINE),
    "C4 SGRN": C4_SGRN,
    "reasoning": REASONING,
    "C4 reasoning": C4_REASONING,
    "Cascade stock": CASCADE_STOCK,
    "Cascade relation": CASCADE_RELATION,
    "Cascade SGRN": CASCADE_SGRN,
    "Cascade reasoning": CASCADE_REASONING,
}
heads = pytest.mark.parametrize("keys", HEADS.values(), ids=HEADS.keys())
SOFT = ("MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "soft_nms")
AGNOSTIC = ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)


def predictor_of(heads):
    """Of the last stage."""
    if isinstance(heads.mechanism, SGRNMechanism):
        return heads.mechanism.predictor
    is_cascade = isinstance(heads.box_predictor, nn.ModuleList)
    return heads.box_predictor[-1] if is_cascade else heads.box_predictor


def mean_of(heads):
    """Predictors whose probabilities a detection has the mean of."""
    is_cascade = isinstance(heads.box_predictor, nn.ModuleList)
    earlier = list(heads.box_predictor[:-1]) if is_cascade else []
    return [*earlier, predictor_of(heads)]


@pytest.mark.parametrize(
    ("stock", "ours"),
    [((), STOCK), (C4, C4_STOCK), (CASCADE, CASCADE_STOCK)],
    ids=["FPN", "C4", "Cascade"],
)
def test_with_nms_it_is_the_stock_head(stock, ours):
    stock = build_heads(*stock)
    expected = head_detections(stock)
    assert_same_detections(head_detections(build_heads(*ours)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("agnostic", [(), AGNOSTIC], ids=["class-specific", "agnostic"])
@heads
def test_soft_nms_keeps_what_nms_deletes(keys, agnostic):
    plain = build_heads(*keys, *agnostic, "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.1)
    soft = build_heads(*keys, *agnostic, *SOFT, "TEST.DETECTIONS_PER_IMAGE", -1)
    soft.load_state_dict(plain.state_dict())
    predictions = [results(p, "predict_probs") for p in mean_of(soft)]
    boxes = results(predictor_of(soft), "predict_boxes")
    fewer, found = head_detections(plain), head_detections(soft)
    stages = [seen[-1][1] for seen in predictions]
    probabilities = [sum(image) / len(stages) for image in zip(*stages, strict=True)]
    corners = boxes[-1][1]
    for image, (ours, theirs) in enumerate(zip(found, fewer, strict=True)):
        assert ours.get_fields().keys() == theirs.get_fields().keys()
        scores = probabilities[image][:, :-1]
        assert len(ours) == scores.numel() > len(theirs)  # with a threshold of 0 nothing is dropped
        height, width = ours.image_size
        limits = corners[image].new_tensor([width, height, width, height])
        clipped = corners[image].unflatten(1, (-1, 4)).clamp(min=0).minimum(limits)
        region, category, expected = soft_nms_per_class(
            clipped.expand(-1, scores.shape[1], -1).contiguous(), scores, score_threshold=0.0
        )
        assert torch.equal(ours.pred_classes, category)
        torch.testing.assert_close(ours.scores, expected)
        rows = clipped.expand(-1, scores.shape[1], -1)[region, category]
        torch.testing.assert_close(ours.pred_boxes.tensor, rows)


def test_options_and_limits_reach_soft_nms():
    keys = ("MODEL.DUPLICATE_REMOVAL.SOFT_NMS_DECAY", "linear", "TEST.DETECTIONS_PER_IMAGE", 7)
    linear = build_heads(*STOCK, *SOFT, *keys)
    for k, found in enumerate(head_detections(linear)):
        assert len(found) == 7, k
        assert (found.scores.diff() <= 0).all()
    removal = build_heads(*STOCK, *SOFT, *keys, "MODEL.DUPLICATE_REMOVAL.SOFT_NMS_SIGMA", 0.3)
    assert (removal.end.decay, removal.end.sigma) == ("linear", 0.3)


def test_predictions_that_are_not_finite_are_left_out():
    soft = build_heads(*STOCK, *SOFT)
    with torch.no_grad():
        soft.box_predictor.bbox_pred.weight.fill_(float("nan"))
    assert [len(found) for found in head_detections(soft)] == [0, 0]


def test_a_wrong_value_is_refused():
    with pytest.raises(ValueError, match=r"MODEL\.DUPLICATE_REMOVAL\.SOFT_NMS_SIGMA .*got 0.0"):
        build_heads(*STOCK, "MODEL.DUPLICATE_REMOVAL.SOFT_NMS_SIGMA", 0.0)


LEARN = ("MODEL.DUPLICATE_REMOVAL.LEARN", True)
LEARNED = (*LEARN, "MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "learned")


END_TO_END = ("MODEL.DUPLICATE_REMOVAL.END_TO_END", True)


@heads
def test_learned_removal_trains_beside_every_head(keys):
    ours = build_heads(*keys, *LEARN)
    head_losses(ours)["loss_duplicates"].backward()
    for name, parameter in ours.named_parameters():
        is_network = name.startswith("end.network.")
        assert (parameter.grad is not None) == is_network, name
        assert not is_network or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("append", [True, False], ids=["with ground truth", "proposals alone"])
@heads
def test_beside_learned_removal_every_head_trains_bit_for_bit_as_without(keys, append):
    keys = (*keys, "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", append)
    plain, ours = build_heads(*keys), build_heads(*keys, *LEARN)
    ours.load_state_dict(plain.state_dict(), strict=False)
    steps = [steps_of(heads) for heads in (plain, ours)]
    for without, beside in zip(*steps, strict=True):
        assert beside.pop("loss_duplicates") > 0
        assert beside == without
    after = ours.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, after[name]), name


def steps_of(heads):
    """Losses of two steps of SGD."""
    optimizer, found = torch.optim.SGD(heads.parameters(), 0.01), []
    for _ in range(2):
        losses = head_losses(heads, scattered((40, 50)))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        found.append({name: value.item() for name, value in losses.items()})
    return found


def test_at_test_time_every_module_comes_back_in_its_mode():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    model[1][0].eval()  # as somebody who froze it
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), at_test_time(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == before


def test_beside_the_detector_the_network_sees_it_as_at_test_time():
    ours = build_heads(*STOCK, *LEARN)
    modes = []
    ours.box_predictor.register_forward_hook(lambda module, *_: modes.append(module.training))
    head_losses(ours)
    assert modes == [True, False]


@heads
def test_learned_removal_trains_with_every_head(keys):
    plain, ours = build_heads(*keys), build_heads(*keys, *LEARN, *END_TO_END)
    missing = ours.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(name.startswith("end.network.") for name in missing)
    before, after = head_losses(plain), head_losses(ours)
    assert after.keys() - before.keys() == {"loss_duplicates"} and before.keys() <= after.keys()
    after["loss_duplicates"].backward()
    predictor = predictor_of(ours)
    # Scores come from the last classifier; the reasoning's final ones do not train the detector.
    reasons = isinstance(ours.mechanism, ReasoningMechanism)
    last = ours.mechanism.reasoner if reasons else predictor.cls_score
    assert any(p.grad is not None and p.grad.any() for p in last.parameters())
    for name, parameter in ours.end.network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert predictor.bbox_pred.weight.grad is None  # boxes are given


@heads
def test_learned_detections_are_scores_times_what_was_learned(keys):
    ours = build_heads(*keys, *LEARNED, "TEST.DETECTIONS_PER_IMAGE", -1)
    with torch.no_grad():
        ours.end.network.logit.weight.zero_()
        ours.end.network.logit.bias.zero_()
    for found in head_detections(ours):
        assert (found.scores.diff() <= 0).all() and len(found) > 0
    again = build_heads(*keys, *LEARN, "TEST.DETECTIONS_PER_IMAGE", -1,
                        "MODEL.ROI_HEADS.NMS_THRESH_TEST", 1.0)  # fmt: skip
    again.load_state_dict(ours.state_dict())
    for half, whole in zip(head_detections(ours), head_detections(again), strict=True):
        assert len(half) == len(whole)  # s1 is 1/2 for all, and NMS at 1 deletes nothing
        torch.testing.assert_close(2 * half.scores, whole.scores)


def found_by_a_constant_end(*keys):
    """Detections where every box keeps half of its score, and the number is not limited."""
    ours = build_heads(*STOCK, *LEARNED, *AGNOSTIC, "TEST.DETECTIONS_PER_IMAGE", -1, *keys)
    with torch.no_grad():
        ours.end.network.logit.weight.zero_()
        ours.end.network.logit.bias.zero_()
        ours.box_predictor.cls_score.weight.normal_(generator=torch.Generator().manual_seed(0))
    return ours.eval()(None, maps(2), scattered())[0]


def test_what_the_network_lowers_below_the_threshold_is_no_detection():
    lowest = 0.1
    everything = found_by_a_constant_end("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    kept = found_by_a_constant_end("MODEL.ROI_HEADS.SCORE_THRESH_TEST", lowest)
    for some, all_ in zip(kept, everything, strict=True):
        scores = all_.scores[all_.scores > lowest]
        between = (all_.scores > lowest / 2) & (all_.scores <= lowest)
        assert between.any() and len(scores)  # its own score is above, the final one is not
        torch.testing.assert_close(some.scores, scores)


def test_classes_that_nothing_scores_for_have_no_detections():
    keys = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    everything = found_by_a_constant_end(*keys)
    best = [
        {int(c): 2 * float(d.scores[d.pred_classes == c].max()) for c in d.pred_classes.unique()}
        for d in everything
    ]
    middle = sorted(best[0].values())[2]
    threshold = ("MODEL.DUPLICATE_REMOVAL.CLASS_THRESH_TEST", middle - 1e-5)
    pruned = found_by_a_constant_end(*keys, *threshold)
    for found, all_, scores in zip(pruned, everything, best, strict=True):
        floor = min(middle - 1e-5, max(scores.values()) - 1e-6)
        likely = torch.tensor([c for c, s in scores.items() if s >= floor])
        keep = torch.isin(all_.pred_classes, likely)
        assert torch.equal(found.pred_classes, all_.pred_classes[keep])
        assert torch.equal(found.scores, all_.scores[keep])
    assert 0 < len(pruned[0]) < len(everything[0])


def test_in_training_classes_of_the_objects_come_first():
    ours = build_heads(*STOCK, *LEARN, "MODEL.DUPLICATE_REMOVAL.MAX_CLASSES", 1,
                       "MODEL.DUPLICATE_REMOVAL.SCORE_THRESH_TRAIN", 0.0)  # fmt: skip
    with torch.no_grad():  # class 0 scores most everywhere, and is no object
        ours.box_predictor.cls_score.weight.zero_()
        ours.box_predictor.cls_score.bias.copy_(torch.tensor([5.0, 0, 0, 0, 0, 0]))
    seen = calls(ours.end.network)
    targets = [x["instances"] for x in batch(SIZES)]
    for per_image in targets:
        per_image.gt_classes = torch.full_like(per_image.gt_classes, 3)
    head_losses(ours, targets=targets)
    (_, _, candidates), _ = seen[0]
    assert candidates.label.unique().tolist() == [3]


@pytest.mark.parametrize("end_to_end", [(), END_TO_END], ids=["beside", "end to end"])
def test_appended_ground_truth_takes_no_part(end_to_end):
    ours = build_heads(*STOCK, *LEARN, *end_to_end, "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", True)
    seen = calls(ours.end.network)
    head_losses(ours, scattered((6, 9)))
    (features, _, candidates), _ = seen[0]
    assert candidates.region_splits == (6, 9) and len(features) == 15


@heads
def test_on_a_frozen_detector_it_is_the_only_loss_that_trains(keys):
    ours = build_heads(*keys, *LEARN).requires_grad_(False)
    ours.end.requires_grad_(True)
    trains = {name for name, value in head_losses(ours).items() if value.requires_grad}
    assert trains == {"loss_duplicates"}


def test_without_a_network_nothing_is_learned():
    with pytest.raises(ValueError, match=r"that MODEL.DUPLICATE_REMOVAL.LEARN True puts"):
        build_heads(*STOCK, "MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "learned")


@pytest.mark.parametrize("bias", [-3.0, 0.0])
def test_the_bias_at_the_start_is_the_one_of_the_key(bias):
    ours = build_heads(*STOCK, *LEARN, "MODEL.DUPLICATE_REMOVAL.LOGIT_BIAS", bias)
    assert (ours.end.network.logit.bias == bias).all()


UNION = ("MODEL.SGRN.TEST_ENSEMBLE", "union_nms")


def test_the_union_of_two_stages_has_not_been_learned():
    with pytest.raises(ValueError, match=r"MODEL\.SGRN\.TEST_ENSEMBLE union_nms .* learned"):
        build_heads(*SGRN, *REFINE, *UNION, *LEARNED)


def test_the_union_of_two_stages_may_end_in_soft_nms():
    ours = build_heads(*SGRN, *REFINE, *UNION, *SOFT, "TEST.DETECTIONS_PER_IMAGE", -1)
    assert [len(found) for found in head_detections(ours)] == 2 * [2 * 20 * NUM_CLASSES]
