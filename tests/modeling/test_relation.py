import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import build_box_head
from detectron2.structures import Boxes, Instances

from relation_heads import get_cfg
from tests.modeling.common import (
    C4,
    C4_RELATION,
    CASCADE,
    CASCADE_RELATION,
    KEYPOINT,
    MASK,
    NUM_CLASSES,
    RELATION,
    STOCK,
    assert_same_detections,
    batch,
    box_regions,
    build,
    build_heads,
    calls,
    config,
    detections,
    gradients,
    losses,
    maps,
    scattered,
)

OFF = ("MODEL.RELATION.NUM_RELATIONS", [0, 0])
FAMILIES = {
    "FPN": (STOCK, RELATION),
    "FPN mask": ((*STOCK, *MASK), (*RELATION, *MASK)),
    "FPN keypoint": ((*STOCK, *KEYPOINT), (*RELATION, *KEYPOINT)),
    "C4": (C4, C4_RELATION),
    "C4 mask": ((*C4, *MASK), (*C4_RELATION, *MASK)),
    "Cascade": (CASCADE, CASCADE_RELATION),
    "Cascade mask keypoint": (
        (*CASCADE, *MASK, *KEYPOINT),
        (*CASCADE_RELATION, *MASK, *KEYPOINT),
    ),
}
families = pytest.mark.parametrize(("stock", "ours"), FAMILIES.values(), ids=FAMILIES.keys())
relational = pytest.mark.parametrize("ours", [RELATION, C4_RELATION], ids=["FPN", "C4"])


@families
def test_without_modules_equals_the_stock_head_bit_for_bit(stock, ours):
    stock, ours = build(*stock), build(*ours, *OFF)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in stock.named_parameters()]
    expected, actual = losses(stock), losses(ours)
    assert actual.keys() == expected.keys()
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name
    sum(expected.values()).backward()
    sum(actual.values()).backward()
    for (name, a), b in zip(ours.named_parameters(), stock.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    assert_same_detections(detections(ours), detections(stock), rtol=0, atol=0)


@relational
def test_without_modules_only_the_sample_is_computed(ours):
    assert build(*ours, *OFF, settle=False).roi_heads.sampling == "regions"
    assert build(*ours, settle=False).roi_heads.sampling == "loss"


@pytest.mark.parametrize("counts", [[1, 1], [2, 0], [0, 2]])
@pytest.mark.parametrize("ours", [RELATION, (*RELATION, *MASK), (*C4_RELATION, *MASK)])
def test_regions_outside_the_loss_answer_and_are_not_classified(ours, counts, monkeypatch):
    opts = (*ours, "MODEL.RELATION.NUM_RELATIONS", counts)
    heads = build_heads(*opts).double()
    proposals = scattered((50, 40))  # of which 32 each are in the loss
    results, rows = [], calls(heads.box_predictor)
    for _ in range(2):
        features = {n: x.detach().double().requires_grad_() for n, x in maps().items()}
        grads = gradients(heads, proposals=proposals, features=features)
        results.append({**grads, **{n: x.grad for n, x in features.items()}})
        monkeypatch.setattr(heads, "_wanted", lambda proposals: None)
    assert [len(x) for (x,), _ in rows] == [64, 98]
    for name, expected in results[1].items():
        atol = 1e-8 if ".gate." in name else 1e-10  # Detectron2's boxes are float32
        torch.testing.assert_close(results[0][name], expected, rtol=1e-10, atol=atol)


@relational
def test_a_relu_follows_the_last_module(ours):
    model, features = build(*ours), []
    model.roi_heads.box_predictor.register_forward_pre_hook(lambda _, x: features.append(x[0]))
    losses(model)
    assert features[0].min() == 0 and (features[0] == 0).any(0).any()


@families
def test_stock_checkpoint_loads_completely(stock, ours):
    stock, ours = build(*stock), build(*ours)
    result = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert result.missing_keys
    assert all(".relation1." in k or ".relation2." in k for k in result.missing_keys)


@relational
def test_default_init_starts_as_the_stock_detector(ours):
    stock = build(*(C4 if ours is C4_RELATION else STOCK))
    ours = build(*ours, "MODEL.RELATION.INIT", get_cfg().MODEL.RELATION.INIT)
    ours.load_state_dict(stock.state_dict(), strict=False)
    assert_same_detections(detections(ours), detections(stock), rtol=0, atol=0)


def test_two_modules_add_the_parameters_of_the_paper():
    def count(name):
        cfg = config("MODEL.ROI_BOX_HEAD.NAME", name, "MODEL.ROI_BOX_HEAD.FC_DIM", 1024,
                     "MODEL.RELATION.NUM_HEADS", 16, "MODEL.RELATION.KEY_DIM", 64)  # fmt: skip
        head = build_box_head(cfg, ShapeSpec(channels=4, height=7, width=7))
        return sum(p.numel() for p in head.parameters())

    assert count("RelationBoxHead") - count("FastRCNNConvFCHead") == 6_299_680


@relational
@pytest.mark.parametrize("sampling", ["loss", "regions", "off"])
def test_a_step_trains_every_relation_parameter(ours, sampling):
    model = build(*ours, "MODEL.RELATION.SAMPLING", sampling)
    result = losses(model)
    assert all(v.isfinite() for v in result.values())
    sum(result.values()).backward()
    for name, parameter in model.roi_heads.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if "relation" in name and "key.bias" not in name:
            assert parameter.grad.any(), name


def proposals_and_targets(model, count=20):
    inputs = batch()
    generator = torch.Generator().manual_seed(3)
    proposals = []
    for x in inputs:
        per_image = Instances(x["instances"].image_size)
        corners = torch.rand(count, 2, 2, generator=generator) * 60
        per_image.proposal_boxes = Boxes(torch.cat([corners.amin(1), corners.amax(1) + 4], dim=1))
        per_image.objectness_logits = torch.zeros(count)
        proposals.append(per_image)
    return proposals, [x["instances"] for x in inputs]


@pytest.mark.parametrize("sampling", ["loss", "off"])
def test_all_proposals_are_keys_and_appended_ground_truth_is_not(sampling):
    regions = box_regions(build(*RELATION, "MODEL.RELATION.SAMPLING", sampling))
    for is_key in regions.split(regions.is_key):
        assert is_key.tolist() == [True] * (len(is_key) - 4) + [False] * 4
    assert max(regions.splits) > 32  # more than the sample


def test_the_sampled_set_alone_knows_its_ground_truth_rows():
    regions = box_regions(build(*RELATION, "MODEL.RELATION.SAMPLING", "regions"))
    assert max(regions.splits) <= 32
    for image, boxes, is_key in zip(
        batch(), regions.split(regions.boxes), regions.split(regions.is_key), strict=True
    ):
        gt = image["instances"].gt_boxes.tensor
        is_gt = (boxes[:, None] == gt[None]).all(-1).any(-1)
        assert is_gt.any() and torch.equal(is_key, ~is_gt)


def test_ground_truth_may_be_made_a_key_and_nothing_is_masked_at_test_time():
    model = build(*RELATION, "MODEL.RELATION.GT_AS_KEYS", True)
    assert box_regions(model).is_key is None
    assert box_regions(build(*RELATION), train=False).is_key is None


def test_the_loss_sees_the_sample_that_detectron2_would_draw():
    sample = {}
    for sampling in ("regions", "loss"):
        heads = build(*RELATION, "MODEL.RELATION.SAMPLING", sampling).roi_heads
        proposals, targets = proposals_and_targets(heads, count=60)  # more than the 32 sampled
        torch.manual_seed(4)
        from detectron2.utils.events import EventStorage

        with EventStorage() as storage:
            labelled = heads.label_and_sample_proposals(proposals, targets)
            sample[sampling, "log"] = {k: h.values() for k, h in storage.histories().items()}
        kept = [p[p.gt_classes >= 0] for p in labelled]
        assert [len(p) for p in kept] == [32, 32]
        sample[sampling] = [
            sorted(
                (*box, k)
                for box, k in zip(
                    p.proposal_boxes.tensor.tolist(), p.gt_classes.tolist(), strict=True
                )
            )
            for p in kept
        ]
    assert sample["loss"] == sample["regions"]
    assert sample["loss", "log"] == sample["regions", "log"]
    assert set(sample["loss", "log"]) == {"roi_head/num_fg_samples", "roi_head/num_bg_samples"}


@relational
def test_detections_depend_on_the_other_proposals(ours):
    model = build(*ours).eval()
    (image,) = batch(((64, 96),))
    features = model.backbone(model.preprocess_image([image]).tensor)
    proposals, _ = proposals_and_targets(model)
    heads, alone = model.roi_heads, proposals[0][:1]
    scores = []
    heads.box_predictor.register_forward_hook(lambda _, __, out: scores.append(out[0][0]))
    with torch.no_grad():
        heads(None, features, [proposals[0]])
        heads(None, features, [alone])
    assert (scores[0] - scores[1]).abs().max() > 1e-6


@relational
def test_batch_equals_image_by_image(ours):
    # From the features on: convolutions of a batch and of one image already differ in the last
    # bits.
    model = build(*ours).eval()
    features = model.backbone(model.preprocess_image(batch(((64, 96), (64, 96)))).tensor)
    proposals, _ = proposals_and_targets(model)
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    with torch.no_grad():
        both, _ = model.roi_heads(None, features, proposals)
        alone = [
            model.roi_heads(None, {k: v[i : i + 1] for k, v in features.items()}, [p])[0][0]
            for i, p in enumerate(proposals)
        ]
    assert_same_detections(both, alone, rtol=0, atol=1e-5)


@relational
@pytest.mark.parametrize("append_gt", [True, False])
def test_no_proposals_and_no_objects(ours, append_gt):
    model = build(*ours, "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", append_gt)
    empty = batch(objects=0)
    result = losses(model, empty)
    assert result["loss_box_reg"] == 0 and result["loss_cls"].isfinite()
    model.proposal_generator.min_box_size = 1e6  # the RPN proposes nothing
    result = losses(model, empty)
    sum(result.values()).backward()
    assert all(p.grad is not None for p in model.roi_heads.parameters())
    assert len(losses(model)) == 4
    assert [len(d) for d in detections(model)] == [0, 0]


@pytest.mark.parametrize(
    "options",
    [
        ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
        ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True),
        ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True, *MASK),
        ("MODEL.RELATION.NUM_RELATIONS", [2, 1]),
        ("MODEL.RELATION.NUM_RELATIONS", [0, 1]),
        ("MODEL.ROI_BOX_HEAD.NUM_CONV", 1, "MODEL.ROI_BOX_HEAD.CONV_DIM", 8),
        (*MASK, *KEYPOINT),
    ],
    ids=lambda o: " ".join(str(v).removeprefix("MODEL.") for v in o[:2]),
)
def test_stock_options_keep_working(options):
    model = build(*RELATION, *options)
    result = losses(model)
    assert all(v.isfinite() for v in result.values())
    assert all(len(d) > 0 for d in detections(model))


def test_precomputed_proposals():
    model = build(*RELATION, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", settle=False)
    inputs = batch()
    proposals, _ = proposals_and_targets(model)
    for x, p in zip(inputs, proposals, strict=True):
        x["proposals"] = p
    assert all(v.isfinite() for v in losses(model, inputs).values())
    assert all(len(d) > 0 for d in detections(model, inputs))


def test_mask_branch_trains_on_the_same_foreground_as_stock():
    model = build(*RELATION, *MASK, "MODEL.RELATION.SAMPLING", "loss")
    rows = []
    model.roi_heads.mask_head.register_forward_pre_hook(lambda _, args: rows.append(args[1]))
    losses(model)
    for per_image in rows[0]:
        assert ((per_image.gt_classes >= 0) & (per_image.gt_classes < NUM_CLASSES)).all()


def test_mask_branch_may_train_on_predicted_boxes():
    boxes = []
    for on_predictions in (False, True):
        model = build(*RELATION, *MASK, "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", on_predictions)
        model.roi_heads.mask_head.register_forward_pre_hook(
            lambda _, args: boxes.append(args[1][0].proposal_boxes.tensor)
        )
        losses(model)
    assert boxes[0].shape == boxes[1].shape and not torch.equal(*boxes)


@relational
def test_bfloat16_autocast_stays_close(ours):
    model = build(*ours).eval()
    inputs = batch(((64, 96), (64, 96)))
    features = model.backbone(model.preprocess_image(inputs).tensor)
    proposals, _ = proposals_and_targets(model)
    logits = []
    model.roi_heads.box_predictor.register_forward_hook(lambda _, __, out: logits.append(out[0]))
    with torch.no_grad():
        model.roi_heads(None, features, proposals)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model.roi_heads(None, features, proposals)
    expected, actual = logits
    assert (actual - expected).norm() / expected.norm() < 0.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("MODEL.RELATION.GEOMETRY", "polar"),
            r"MODEL\.RELATION\.GEOMETRY must be one of 'none', .*, got 'polar'",
        ),
        (
            ("MODEL.RELATION.GEOMETRY", "position", "MODEL.RELATION.IMPLEMENTATION", "triton"),
            r"MODEL\.RELATION\.IMPLEMENTATION must be .* no kernel, got 'triton'",
        ),
        (
            ("MODEL.RELATION.NUM_HEADS", 5),
            r"MODEL\.(RELATION\.NUM_HEADS .*got 5|ROI_BOX_HEAD\.FC_DIM .* 5, got 64)",
        ),
        (("MODEL.RELATION.NUM_RELATIONS", [1]), r"NUM_RELATIONS must be .*, got \[1\]"),
        (("MODEL.ROI_BOX_HEAD.NUM_FC", 1), r"needs MODEL.ROI_BOX_HEAD.NUM_FC >= 2, got 1"),
        (("MODEL.ROI_BOX_HEAD.NAME", "Other"), r"ROI_BOX_HEAD\.NAME must be .*; got 'Other'"),
    ],
)
def test_wrong_options_are_named_at_build_time(options, message):
    with pytest.raises(ValueError, match=message):
        build(*RELATION, *options)


def test_stock_heads_cannot_call_the_relation_head():
    model = build("MODEL.ROI_BOX_HEAD.NAME", "RelationBoxHead", settle=False)
    with pytest.raises(ValueError, match=r"MODEL\.ROI_HEADS\.NAME must be .* RelationROIHeads"):
        losses(model)


def test_a_config_of_detectron2_alone_is_enough():
    from detectron2.config import get_cfg

    from tests.helpers import tiny_cfg

    cfg = tiny_cfg([], [], NUM_CLASSES, "unused", RELATION, base=get_cfg())
    assert "RELATION" not in cfg.MODEL
    model = build_model(cfg)
    assert model.roi_heads.box_head.relation1[0].num_heads == 16


@relational
@pytest.mark.parametrize("geometry", ["relation", "position", "none"])
def test_every_implementation_gives_the_same_losses_and_detections(ours, geometry):
    options = (*ours, "MODEL.RELATION.GEOMETRY", geometry, "MODEL.RELATION.IMPLEMENTATION")
    simple = build(*options, "simple")
    expected_losses, expected_detections = losses(simple), detections(simple)
    for name in ("fused", "auto"):
        model = build(*options, name)
        model.load_state_dict(simple.state_dict())
        actual = losses(model)
        for key, loss in expected_losses.items():
            torch.testing.assert_close(actual[key], loss, rtol=1e-4, atol=1e-5, msg=key)
        # Scores that rounding makes change places are compared in the order of boxes.
        actual = [found[by_box(found)] for found in detections(model)]
        expected = [found[by_box(found)] for found in expected_detections]
        assert_same_detections(actual, expected, rtol=1e-3, atol=1e-3)


def by_box(found):
    """The order of detections by class and place."""
    x, y = found.pred_boxes.tensor.round()[:, :2].unbind(1)
    return (found.pred_classes * 1e6 + x * 1e3 + y).argsort()
