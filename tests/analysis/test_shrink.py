"""Any config becomes a model that a CPU steps in a moment, with the structure that it had."""

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from relation_heads.analysis.shrink import images, settle, shrink
from relation_heads.analysis.sweep import STOCK_CONFIGS
from relation_heads.config import get_cfg

FPN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
C4 = "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"
CASCADE = "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml"
PANOPTIC = "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"


def config(name, *opts):
    cfg = get_cfg()
    cfg.merge_from_file(str(STOCK_CONFIGS / name))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *opts])
    return cfg


def names(cfg):
    """Of all parameters, without the convolutions of a mask head, whose number shrinks."""
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return {n for n, _ in build_model(cfg).named_parameters() if "mask_fcn" not in n}


@pytest.mark.parametrize("name", [FPN, C4, CASCADE, PANOPTIC])
def test_the_structure_stays(name):
    cfg = config(name)
    small = shrink(cfg)
    assert names(small) == names(cfg)


@pytest.mark.parametrize(
    ("head", "opts"),
    [
        ("RelationROIHeads", ()),
        ("SGRNROIHeads", ("MODEL.SGRN.REFINE", True)),
        ("ReasoningROIHeads", ()),
        ("DuplicateRemovalROIHeads", ("MODEL.DUPLICATE_REMOVAL.LEARN", True)),
    ],
)
def test_our_heads_shrink_too(head, opts):
    cfg = config(FPN, "MODEL.ROI_HEADS.NAME", head, *opts)
    small = shrink(cfg)
    assert names(small) == names(cfg)
    small.MODEL.DEVICE = "cpu"
    model = build_model(small)
    assert sum(p.numel() for p in model.parameters()) < 1e6
    with EventStorage():
        losses = model(images(small))
    sum(losses.values()).backward()


def test_the_config_itself_is_left_alone():
    cfg = config(FPN)
    before = cfg.dump()
    cfg.freeze()
    small = shrink(cfg)
    assert cfg.dump() == before
    small.MODEL.WEIGHTS = "another"  # not frozen


def test_small_numbers_and_group_norm_stay():
    cfg = shrink(config(FPN, "MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.FPN.NORM", "GN"))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert cfg.MODEL.FPN.OUT_CHANNELS % 32 == 0 and cfg.MODEL.ROI_MASK_HEAD.CONV_DIM < 32


def test_the_federated_loss_keeps_its_classes():
    keys = ("MODEL.ROI_HEADS.NUM_CLASSES", 1203, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True)
    assert shrink(config(FPN, *keys)).MODEL.ROI_HEADS.NUM_CLASSES < 20
    keys += ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True)
    assert shrink(config(FPN, *keys)).MODEL.ROI_HEADS.NUM_CLASSES == 1203


def test_images_bring_what_the_config_asks_for():
    fast = shrink(config("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml"))
    first, second = images(fast, ((64, 96), (32, 48)), objects=2)
    assert first["image"].shape == (3, 64, 96) and second["sem_seg"].shape == (32, 48)
    assert len(first["instances"]) == 2
    for image in (first, second):
        height, width = image["instances"].image_size
        boxes = torch.cat([image["proposals"].proposal_boxes.tensor,
                           image["instances"].gt_boxes.tensor])  # fmt: skip
        assert (boxes[:, 2:] - boxes[:, :2] >= 8).all() and (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
    assert "proposals" not in images(shrink(config(FPN)))[0]
    assert len(images(fast, objects=0)[0]["instances"]) == 0


def test_settled_features_are_of_order_one_and_regions_differ():
    torch.manual_seed(0)
    cfg = shrink(config(FPN))
    model, inputs = build_model(cfg), images(cfg)
    norms = [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    seen = []
    norms[-1].register_forward_hook(lambda _, __, out: seen.append(out.clone()))
    settle(model, inputs)
    assert model.training
    found = model.eval()(inputs)
    assert abs(seen[-1].mean()) < 0.01 and abs(seen[-1].std() - 1) < 0.05
    scores = found[0]["instances"].scores
    assert len(scores) == cfg.TEST.DETECTIONS_PER_IMAGE and scores.max() > 1.5 * scores.min()
