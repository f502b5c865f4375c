"""Every mistake is found before anything is built, and named with its key and value."""

from __future__ import annotations

import logging

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import StandardROIHeads

from relation_heads import get_cfg
from relation_heads.config.problems import Problem
from relation_heads.engine import checks, dataset_checks
from relation_heads.engine.checks import check_cfg
from tests.helpers import (
    registered,
    registered_labels,
    tiny_cfg,
    tiny_coco,
    unregister,
    write_json,
)
from tests.modeling.common import SEM_SEG

RETINANET = [
    "MODEL.META_ARCHITECTURE", "RetinaNet",
    "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone",
    "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"],
]  # fmt: skip


@pytest.fixture
def coco(tmp_path):
    return tiny_coco(tmp_path / "a")


@pytest.fixture
def name(coco):
    with registered(coco) as name:
        yield name


@pytest.fixture
def cfg(name, tmp_path):
    return tiny_cfg([name], [name], 3, tmp_path / "out", base=get_cfg())


def problems(cfg, **kwargs):
    """The lines of the error, without the header; empty if there is none."""
    try:
        check_cfg(cfg, **kwargs)
    except ValueError as error:
        lines = str(error).splitlines()[1:]
        assert all(line.startswith("- ") and line.endswith((".", "?")) for line in lines), lines
        return lines
    return []


def assert_only_problem(cfg, *parts, **kwargs):
    found = problems(cfg, **kwargs)
    assert len(found) == 1, found
    assert all(part in found[0] for part in parts), found


def warnings(caplog, cfg):
    with caplog.at_level(logging.WARNING, logger=checks.logger.name):
        check_cfg(cfg)
    return [r.message for r in caplog.records if r.name == checks.logger.name]


def test_a_good_config_passes(cfg, caplog):
    assert problems(cfg) == []
    assert warnings(caplog, cfg) == []


def test_num_classes(cfg, name):
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    assert_only_problem(cfg, "MODEL.ROI_HEADS.NUM_CLASSES is 80", f"{name} has 3")
    assert_only_problem(cfg, "NUM_CLASSES", eval_only=True)


def test_num_classes_of_a_retinanet_is_another_key(cfg, name):
    cfg.merge_from_list(RETINANET)  # ROI_HEADS is not read
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 77
    assert_only_problem(cfg, "MODEL.RETINANET.NUM_CLASSES is 80", f"{name} has 3")
    cfg.MODEL.RETINANET.NUM_CLASSES = 3
    assert problems(cfg) == []


def test_num_classes_of_pixels_are_those_of_the_stuff(coco, cfg):
    with registered_labels(coco) as name:
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
        cfg.merge_from_list(list(SEM_SEG))
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 77  # not read
        assert problems(cfg) == []
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
        assert_only_problem(cfg, "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 3", f"{name} has 4")


def test_evaluation_on_cityscapes_needs_its_scripts(coco, cfg, monkeypatch):
    with registered_labels(coco, evaluator_type="cityscapes_sem_seg") as name:
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
        cfg.merge_from_list(list(SEM_SEG))
        monkeypatch.setattr(dataset_checks, "provide_cityscapes_scripts", lambda: None)
        assert problems(cfg) == []

        def missing():
            raise ModuleNotFoundError("install it.")

        monkeypatch.setattr(dataset_checks, "provide_cityscapes_scripts", missing)
        assert_only_problem(cfg, f"{name}: install it.")
        assert_only_problem(cfg, f"{name}: install it.", eval_only=True)
        cfg.DATASETS.TEST = ()
        assert problems(cfg) == []


def test_num_classes_without_class_names_in_the_metadata(coco, cfg):
    """Detectron2's own registration knows the names once the set is loaded; the JSON has them."""
    register_coco_instances("lazy", {}, str(coco.json_file), str(coco.image_root))
    try:
        cfg.DATASETS.TRAIN = ("lazy",)
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
        assert_only_problem(cfg, "lazy has 3")
    finally:
        unregister("lazy")


def test_splits_with_other_classes(cfg, name, coco, tmp_path):
    other = tiny_coco(tmp_path / "b")
    other.dataset["categories"][1]["name"] = "moon"
    write_json(other.json_file, other.dataset)
    with registered(other) as test:
        cfg.DATASETS.TEST = (test,)
        assert_only_problem(cfg, "Class 1 is 'class1'", name, "'moon'", test)


def test_splits_with_fewer_classes(cfg, name, tmp_path):
    with registered(tiny_coco(tmp_path / "b", num_classes=2)) as test:
        cfg.DATASETS.TEST = (test,)
        found = problems(cfg)
    assert any(f"NUM_CLASSES is 3, but {test} has 2" in p for p in found)
    assert any(f"{name} has 3 classes and {test} has 2" in p for p in found)


def test_data_set_that_is_not_registered(cfg, name):
    cfg.DATASETS.TRAIN = (name[:-2],)
    assert_only_problem(cfg, repr(name[:-2]), "not registered", "did you mean", name)


def test_json_problems_stop_a_test_set_and_warn_about_a_training_set(cfg, coco, tmp_path, caplog):
    bad = tiny_coco(tmp_path / "b")
    bad.dataset["annotations"][0]["id"] = 0
    write_json(bad.json_file, bad.dataset)
    with registered(bad) as name:
        cfg.DATASETS.TRAIN = (name,)
        (warning,) = warnings(caplog, cfg)
        assert name in warning and "id 0" in warning
        cfg.DATASETS.TEST = (name,)
        assert_only_problem(cfg, name, "1 annotation with id 0")


def test_boxes_without_an_area_only_warn(cfg, coco, name, caplog):
    coco.dataset["annotations"][0]["bbox"] = [1, 1, 0, 4]
    write_json(coco.json_file, coco.dataset)
    (warning,) = warnings(caplog, cfg)
    assert "1 annotation with a box of width or height <= 0" in warning


def test_json_that_does_not_have_the_classes_of_the_data_set(cfg, coco, name):
    coco.dataset["categories"][0]["name"] = "moon"
    write_json(coco.json_file, coco.dataset)
    assert_only_problem(cfg, "are not the classes of the data set", str(coco.json_file))


def test_files_may_be_absent(cfg, coco):
    """Data sets are loaded when they are used, those of DATASETS.TRAIN not in an evaluation."""
    coco.json_file.unlink()
    assert problems(cfg) == []
    assert problems(cfg, eval_only=True) == []


def test_training_files_are_not_read_for_an_evaluation(cfg, tmp_path):
    bad = tiny_coco(tmp_path / "b")
    with registered(bad) as name:
        cfg.DATASETS.TRAIN = (name,)
        bad.json_file.write_text("{")
        assert_only_problem(cfg, name, "not a JSON file")
        assert problems(cfg, eval_only=True) == []


def test_cuda_without_a_gpu(cfg, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg.MODEL.DEVICE = "cuda"
    assert_only_problem(cfg, "MODEL.DEVICE is cuda", "set MODEL.DEVICE cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert problems(cfg) == []
    cfg.MODEL.DEVICE = "gpu"
    assert_only_problem(cfg, "MODEL.DEVICE 'gpu' is not a device")


def test_mixed_precision_on_a_cpu(cfg):
    cfg.SOLVER.AMP.ENABLED = True
    assert_only_problem(cfg, "SOLVER.AMP.ENABLED", "MODEL.DEVICE cpu")
    assert problems(cfg, eval_only=True) == []


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("MODEL.RESNETS.NORM", "FrozenBN", ("MODEL.RESNETS.NORM is FrozenBN", "diverges")),
        ("MODEL.BACKBONE.FREEZE_AT", 2, ("MODEL.BACKBONE.FREEZE_AT is 2", "FREEZE_AT 0")),
    ],
)
def test_frozen_parts_without_weights(cfg, tmp_path, key, value, parts):
    cfg.merge_from_list([key, value])
    assert_only_problem(cfg, "MODEL.WEIGHTS is empty", *parts)
    assert problems(cfg, eval_only=True) == []
    # Neither with weights, nor with a backbone that does not read these keys.
    for other in (
        ["MODEL.WEIGHTS", "detectron2://ImageNetPretrained/MSRA/R-50.pkl"],
        ["MODEL.BACKBONE.NAME", "build_shallow_backbone", "MODEL.ROI_HEADS.IN_FEATURES", ["p3"],
         "MODEL.RPN.IN_FEATURES", ["p3"], "MODEL.ANCHOR_GENERATOR.SIZES", [[16]]],
    ):  # fmt: skip
        changed = cfg.clone()
        changed.merge_from_list(other)
        assert problems(changed) == []


def test_a_frozen_lite_without_weights(cfg):
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    cfg.MODEL.BACKBONE.NAME = "build_efficientnet_lite_fpn_backbone"
    cfg.MODEL.RESNETS.NORM = "FrozenBN"  # nobody reads it
    assert_only_problem(cfg, "MODEL.BACKBONE.FREEZE_AT is 2", "MODEL.WEIGHTS is empty")


@pytest.mark.parametrize("key", ["MODEL.BACKBONE.FREEZE_AT", "MODEL.LR_NET.NORM"])
def test_an_lr_net_without_weights(cfg, key):
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.NORM = "build_lr_net_fpn_backbone", "FrozenBN"
    cfg.merge_from_list([key, 2 if key.endswith("FREEZE_AT") else "FrozenBN"])
    assert_only_problem(cfg, f"{key} is ", "MODEL.WEIGHTS is empty")


def test_a_torchvision_backbone_without_weights(cfg, caplog):
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    cfg.MODEL.BACKBONE.NAME = "build_torchvision_fpn_backbone"
    assert_only_problem(cfg, "MODEL.BACKBONE.FREEZE_AT is 2", "MODEL.WEIGHTS is empty")
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    caplog.clear()
    assert problems(cfg) == []
    (record,) = caplog.records
    assert "batch norms are frozen, but MODEL.WEIGHTS is empty" in record.getMessage()


def test_weights_that_do_not_exist(cfg, tmp_path):
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    assert_only_problem(cfg, "MODEL.WEIGHTS", str(tmp_path / "model.pth"))
    (tmp_path / "model.pth").touch()
    assert problems(cfg) == []
    cfg.MODEL.WEIGHTS += "?matching_heuristics=True"
    assert problems(cfg) == []


def test_weights_are_not_read_when_a_run_is_resumed(cfg, tmp_path):
    cfg.MODEL.WEIGHTS = "nowhere.pth"
    assert_only_problem(cfg, "nowhere.pth", resume=True)  # there is no checkpoint to resume
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model_0000001.pth").write_bytes(b"")
    assert_only_problem(cfg, "nowhere.pth")
    assert problems(cfg, resume=True) == []


def test_steps_after_the_end_only_warn(cfg, caplog):
    cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER = (60, 80), 70
    (warning,) = warnings(caplog, cfg)
    assert "SOLVER.STEPS [80]" in warning and "MAX_ITER 70" in warning
    caplog.clear()
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    assert warnings(caplog, cfg) == []


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("MODEL.META_ARCHITECTURE", "GeneralisedRCNN", "GeneralizedRCNN"),
        ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbon", "build_resnet_fpn_backbone"),
        ("MODEL.ROI_HEADS.NAME", "RelationRoiHeads", "RelationROIHeads"),
        ("MODEL.ROI_BOX_HEAD.NAME", "RelationBoxhead", "RelationBoxHead"),
    ],
)
def test_names_that_are_not_registered(cfg, key, wrong, right):
    cfg.merge_from_list([key, wrong])
    assert_only_problem(cfg, key, repr(wrong), "did you mean", right)


def test_segmentation_head_that_is_not_registered(cfg):
    cfg.merge_from_list([*SEM_SEG, "MODEL.SEM_SEG_HEAD.NAME", "GloreFCNHead"])
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    named = ("MODEL.SEM_SEG_HEAD.NAME 'GloreFCNHead'", "did you mean GloReFCNHead")
    assert_only_problem(cfg, *named, eval_only=True)


def test_relation_box_head_in_heads_that_do_not_tell_it_the_regions(cfg):
    cfg.MODEL.ROI_BOX_HEAD.NAME = "RelationBoxHead"
    assert_only_problem(cfg, "StandardROIHeads", "set MODEL.ROI_HEADS.NAME RelationROIHeads")
    cfg.MODEL.ROI_HEADS.NAME = "RelationROIHeads"
    assert problems(cfg) == []


@pytest.mark.parametrize("patterns", [["roi_heads.*"], ["roi_heads.box_head.*"]])
def test_a_model_that_stays_as_it_is_must_be_a_trained_one(cfg, patterns):
    cfg.MODEL.TRAIN_ONLY = patterns
    assert_only_problem(cfg, f"MODEL.TRAIN_ONLY is {patterns}", "'' has none", "a trained detector")
    assert problems(cfg, eval_only=True) == []
    cfg.MODEL.WEIGHTS = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    assert_only_problem(cfg, "R-50.pkl' has none")
    cfg.MODEL.TRAIN_ONLY = ["proposal_generator.*", *patterns]  # ImageNet has the rest
    assert problems(cfg) == []
    cfg.MODEL.TRAIN_ONLY = patterns
    cfg.MODEL.WEIGHTS = "detectron2://COCO-Detection/faster_rcnn_R_50_FPN_1x/x/model_final.pkl"
    assert problems(cfg) == []


def test_a_model_without_an_rpn_can_train_on_weights_of_imagenet(cfg):
    cfg.merge_from_list([*RETINANET, "MODEL.RETINANET.NUM_CLASSES", 3])
    cfg.MODEL.TRAIN_ONLY = ["head.*"]
    assert_only_problem(cfg, "MODEL.TRAIN_ONLY")
    cfg.MODEL.WEIGHTS = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    assert problems(cfg) == []


def test_heads_say_what_is_wrong_with_their_own_keys(cfg, caplog, monkeypatch):
    class ToldHeads(StandardROIHeads):
        @classmethod
        def problems(cls, cfg):
            yield Problem(f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME} is one problem.")
            yield Problem("MODEL.X is odd.", fatal=False)

    monkeypatch.setitem(ROI_HEADS_REGISTRY._obj_map, "ToldHeads", ToldHeads)
    cfg.MODEL.ROI_HEADS.NAME = "ToldHeads"
    assert_only_problem(cfg, "MODEL.ROI_HEADS.NAME ToldHeads is one problem.")
    assert "MODEL.X is odd." in caplog.text


def test_given_boxes_need_the_keys_that_belong_to_them(cfg):
    cfg.MODEL.ROI_HEADS.NAME = "RegionClassificationROIHeads"
    assert_only_problem(
        cfg, "MODEL.PROPOSAL_GENERATOR.NAME must be PrecomputedProposals", "got RPN"
    )
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    assert problems(cfg) == []
    cfg.MODEL.MASK_ON = True
    assert_only_problem(cfg, "MODEL.MASK_ON must be False", "got True")


def test_all_problems_are_reported_at_once(cfg):
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    cfg.DATASETS.TEST = ("nobody",)
    assert len(problems(cfg)) == 3


# ---- context blocks ----


def test_plugins_that_nobody_reads(cfg):
    cfg.MODEL.CONTEXT_BLOCKS.PLUGINS = [{"name": "GC", "stages": ["res4"]}]
    assert_only_problem(
        cfg,
        "MODEL.CONTEXT_BLOCKS.PLUGINS are given, and MODEL.BACKBONE.NAME build_resnet_fpn_backbone",
        "use one of build_context_resnet_backbone, build_context_resnet_fpn_backbone",
    )
    cfg.MODEL.BACKBONE.NAME = "build_context_resnet_fpn_backbone"
    assert problems(cfg) == []


def test_plugins_that_cannot_be_read(cfg):
    cfg.MODEL.BACKBONE.NAME = "build_context_resnet_fpn_backbone"
    cfg.MODEL.CONTEXT_BLOCKS.PLUGINS = [{"name": "GC", "stages": ["res4"], "ratios": 0.1}]
    assert_only_problem(cfg, "PLUGINS[0]: GC has no key 'ratios'; did you mean ratio?")


# ---- duplicate removal ----

SOFT_NMS = ["MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "soft_nms"]


def test_stock_heads_do_not_read_another_end(cfg):
    cfg.merge_from_list([*SOFT_NMS, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.001])
    assert_only_problem(
        cfg, "TEST_METHOD soft_nms", "set MODEL.ROI_HEADS.NAME DuplicateRemovalROIHeads"
    )
    cfg.MODEL.ROI_HEADS.NAME = "DuplicateRemovalROIHeads"
    assert problems(cfg) == []


def test_a_high_score_threshold_destroys_soft_nms(cfg, caplog):
    cfg.merge_from_list([*SOFT_NMS, "MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads"])
    (warning,) = warnings(caplog, cfg)
    assert "SCORE_THRESH_TEST 0.05 then drops true detections: 0.001" in warning


def test_augmented_views_are_merged_by_nms(cfg, caplog):
    cfg.merge_from_list([*SOFT_NMS, "MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads",
                         "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.001])  # fmt: skip
    assert warnings(caplog, cfg) == []
    cfg.TEST.AUG.ENABLED = True
    (warning,) = warnings(caplog, cfg)
    assert "TEST.AUG merges what" in warning and "soft_nms leaves of each view by NMS" in warning
