import pytest

pytest.importorskip("detectron2")

from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads, StandardROIHeads

from relation_heads.modeling.registered import classifies_given_boxes, roi_heads_class


def cfg(*opts):
    cfg = get_detectron2_cfg()
    cfg.merge_from_list(list(opts))
    return cfg


def test_the_class_of_the_heads_is_asked(monkeypatch):
    given = type("GivenROIHeads", (StandardROIHeads,), {"classifies_given_boxes": True})
    monkeypatch.setitem(ROI_HEADS_REGISTRY._obj_map, "GivenROIHeads", given)
    name = ("MODEL.ROI_HEADS.NAME", "GivenROIHeads")
    assert classifies_given_boxes(cfg(*name))
    assert not classifies_given_boxes(cfg(*name, "MODEL.META_ARCHITECTURE", "RetinaNet"))
    assert not classifies_given_boxes(cfg())


def test_models_without_roi_heads_have_no_class():
    assert roi_heads_class(cfg()) is Res5ROIHeads
    for arch in ("RetinaNet", "ProposalNetwork", "SemanticSegmentor", "nobody"):
        assert roi_heads_class(cfg("MODEL.META_ARCHITECTURE", arch)) is None
    assert roi_heads_class(cfg("MODEL.META_ARCHITECTURE", "PanopticFPN")) is Res5ROIHeads
    assert roi_heads_class(cfg("MODEL.ROI_HEADS.NAME", "nobody")) is None
