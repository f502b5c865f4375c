import pytest

pytest.importorskip("detectron2")

import re

import torch
from detectron2.modeling import build_model, build_roi_heads
from detectron2.utils.events import EventStorage
from torch.utils.flop_counter import FlopCounterMode

from relation_heads.analysis import detectors
from relation_heads.analysis.counting import kept_bytes
from relation_heads.analysis.detectors import NEW, analyze, build_shapes, padded_size
from relation_heads.analysis.roi_heads import RegionCounts, _Image, count_roi_heads
from tests.config.test_config import LEAVES, load
from tests.modeling.common import (
    C4,
    C4_RELATION,
    KEYPOINT,
    MASK,
    REASONING,
    RELATION,
    SGRN,
    config,
)

SIZE = (64, 96)
REGIONS = RegionCounts(training=60, test=40, detections=10)
GLORE = (
    "MODEL.BACKBONE.NAME", "build_context_resnet_fpn_backbone",
    "MODEL.CONTEXT_BLOCKS.PLUGINS", [{"name": "GloRe", "stages": {"res4": [0]}}],
)  # fmt: skip


KNOWN = {}  # counting takes a second, and many tests compare with the same model


def cost(*opts, twin=None, regions=REGIONS):
    key = repr((opts, twin, regions))
    if key not in KNOWN:
        theirs = None if twin is None else config(*twin)
        KNOWN[key] = analyze(config(*opts), SIZE, regions, twin=theirs)
    return KNOWN[key]


def flops(run):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        result = run()
    return counter.get_total_flops(), result


def test_parts_agree_with_a_model_that_really_runs():
    costs = cost()
    model = build_model(config())
    assert sum(c.parameters for c in costs.values()) == sum(p.numel() for p in model.parameters())
    image = torch.rand(1, 3, *SIZE)
    products, features = flops(lambda: model.eval().backbone(image))
    assert 2 * costs["backbone"].multiply_adds == products
    maps = [features[f] for f in model.proposal_generator.in_features]
    products, _ = flops(lambda: model.proposal_generator.rpn_head(maps))
    assert 2 * costs["RPN"].multiply_adds == products
    own = [*model.backbone.parameters(), *model.backbone.buffers()]
    _, kept = kept_bytes(lambda: model.train().backbone(image), own=own)
    assert costs["backbone"].kept_bytes == kept.elsewhere > 0


def test_roi_heads_by_hand():
    cfg = config()
    heads = build_roi_heads(cfg, build_shapes(cfg).backbone.output_shape())
    per_region = sum(p.numel() for p in heads.parameters() if p.dim() > 1)  # all are linear layers
    costs = cost()
    assert costs["ROI heads"].multiply_adds == REGIONS.test * per_region


def test_the_training_sample_is_full():
    sampled, foreground = 512, 128  # a quarter of it
    opts = ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", sampled)
    cfg = config(*opts)
    heads = build_roi_heads(cfg, build_shapes(cfg).backbone.output_shape())
    image = _Image(cfg, SIZE, "cpu")
    with EventStorage() as storage:
        heads.label_and_sample_proposals([image.proposals(1000)], [image.targets])
        counts = {name: value for name, (value, _) in storage.latest().items()}
    assert counts["roi_head/num_fg_samples"] == foreground
    assert counts["roi_head/num_bg_samples"] == sampled - foreground
    # The step keeps its pooled features, and little more.
    pooled = sampled * heads.box_head.fc1.in_features * 4
    kept = cost(*opts, regions=RegionCounts(1000, 40, 10))["ROI heads"].kept_bytes
    assert pooled < kept < 1.1 * pooled


def test_masks_and_keypoints_are_of_a_fixed_number_of_boxes():
    few = cost(*MASK, *KEYPOINT)["ROI heads"].multiply_adds
    more = RegionCounts(training=60, test=40, detections=20)
    many = cost(*MASK, *KEYPOINT, regions=more)["ROI heads"].multiply_adds
    branches = few - cost()["ROI heads"].multiply_adds
    assert branches > 0 and many - few == branches  # twice the boxes


@pytest.mark.parametrize(
    ("ours", "stock"),
    [(RELATION, ()), (SGRN, ()), (REASONING, ()), (C4_RELATION, C4), (GLORE, ())],
    ids=["relation", "sgrn", "reasoning", "C4", "glore"],
)
def test_new_blocks_are_what_the_twin_lacks(ours, stock):
    costs, theirs = cost(*ours, twin=stock), cost(*stock)
    assert NEW not in theirs
    assert costs[NEW].parameters > 0 and costs[NEW].multiply_adds > 0 and costs[NEW].kept_bytes > 0
    for part, other in theirs.items():
        assert costs[part].parameters == other.parameters
        assert costs[part].multiply_adds == other.multiply_adds


def test_glore_by_hand():
    costs = cost(*GLORE, twin=())
    c, n, s, places = 128, 32, 64, (SIZE[0] // 16) * (SIZE[1] // 16)
    over_places = places * (c * n + n * c + n * c)  # B, X B^T, and Z B after W_e
    assert costs[NEW].multiply_adds == over_places + n * (c * s + n * s + s * s + s * c)
    group_norm = 2 * c
    by_hand = 2 * c * s + s + c * n + n + n * n + n + s * s + group_norm
    assert costs[NEW].parameters == by_hand


def test_statistics_and_frozen_parts():
    bn, frozen = cost()["backbone"], cost("MODEL.RESNETS.NORM", "FrozenBN")["backbone"]
    # Scale and shift become buffers; FREEZE_AT is 0.
    assert bn.trained == bn.parameters > frozen.parameters
    assert bn.with_statistics == frozen.with_statistics
    assert bn.with_statistics - bn.parameters == bn.parameters - frozen.parameters
    part = cost("MODEL.BACKBONE.FREEZE_AT", 2)["backbone"]
    assert part.trained < bn.trained and part.kept_bytes < bn.kept_bytes


def test_a_frozen_detector_keeps_nothing():
    costs = cost(*SGRN, "MODEL.TRAIN_ONLY", ["roi_heads.mechanism.*"], twin=())
    for part in ("backbone", "RPN"):
        assert costs[part].trained == costs[part].kept_bytes == 0
    assert costs[NEW].trained == costs[NEW].parameters and costs[NEW].kept_bytes > 0


def test_other_kinds_of_models():
    dense = cost("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.BACKBONE.NAME",
                 "build_retinanet_resnet_fpn_backbone", "MODEL.RESNETS.OUT_FEATURES",
                 ["res3", "res4", "res5"], "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"],
                 "MODEL.ANCHOR_GENERATOR.SIZES", [[32]] * 5)  # fmt: skip
    assert list(dense) == ["backbone", "dense head"]
    segmenter = cost("MODEL.META_ARCHITECTURE", "SemanticSegmentor")
    assert list(segmenter) == ["backbone", "segmentation head"]
    for costs in (dense, segmenter):
        assert all(c.multiply_adds > 0 and c.kept_bytes > 0 for c in costs.values())
    # Their own boxes are what region classifiers see, and there are as many as detections.
    given = ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", *REASONING,
             "MODEL.ROI_HEADS.NAME", "RegionClassificationROIHeads", "MODEL.REASONING.MODULES", [],
             "MODEL.REASONING.FOREGROUND", False)  # fmt: skip
    costs = cost(*given)
    assert list(costs) == ["backbone", "ROI heads"]
    assert cost()["ROI heads"].multiply_adds == 4 * costs["ROI heads"].multiply_adds


def test_padding_is_the_backbones():
    assert padded_size(build_shapes(config()), (65, 96)) == (96, 96)
    assert padded_size(build_shapes(config(*C4)), (65, 96)) == (65, 96)


def test_what_cannot_be_analysed_is_said(monkeypatch):
    modulated = ("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256,
                 "MODEL.RESNETS.DEFORM_MODULATED", True,
                 "MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True])  # fmt: skip
    with pytest.raises(ValueError, match="analysed on a CPU: Deformable Conv is not supported"):
        cost(*modulated)
    monkeypatch.delitem(detectors.PARTS, "roi_heads")
    with pytest.raises(ValueError, match=r"GeneralizedRCNN has a part 'roi_heads', and only backb"):
        analyze(config(), SIZE, REGIONS)


ENDS = [leaf for leaf in LEAVES if re.search("learn_nms|soft_nms", leaf)]


@pytest.mark.parametrize("leaf", ENDS)
def test_heads_that_remove_duplicates_otherwise_can_be_counted(leaf):
    cfg = load(leaf)
    backbone = build_shapes(cfg).backbone
    maps = {
        name: torch.zeros(1, shape.channels, 64 // shape.stride, 128 // shape.stride)
        for name, shape in backbone.output_shape().items()
    }
    few = RegionCounts(training=8, test=8, detections=2)
    products, kept = count_roi_heads(cfg, backbone.output_shape(), maps, (64, 128), few, "cpu", ())
    assert products.elsewhere > 0 and kept.elsewhere > 0


def test_a_learned_end_is_counted_with_as_many_boxes_as_it_may_see():
    learned = (
        *("MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads"),
        *("MODEL.DUPLICATE_REMOVAL.LEARN", True),
    )
    by_network = ("MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "learned")
    cfg = config(*learned)
    network = build_roi_heads(cfg, build_shapes(cfg).backbone.output_shape()).end.network
    d, e, w = network.dim, network.logit.in_features, network.query.out_features
    n, classes = REGIONS.test, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    # Once per region, once per rank; then n boxes of each class listen to n, in H heads.
    linear = n * (d * e + e * (2 * w + e)) + n * (network.rank_dim * e + e * (2 * w + e))
    pairs = classes * n * n * (w + 64 * network.num_heads + e)
    last = classes * n * e * len(cfg.MODEL.DUPLICATE_REMOVAL.THRESHOLDS)
    before, after = (cost(*learned, *keys)["ROI heads"] for keys in ((), by_network))
    assert after.multiply_adds - before.multiply_adds >= linear + last + pairs / 2
