"""What a backbone does not give, or why it cannot be built, is said before anything is built."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_backbone

from relation_heads.config import get_cfg
from relation_heads.engine.backbone_checks import backbone_problems
from relation_heads.engine.build import building
from tests.helpers import tiny_cfg


def said(*opts):
    cfg = tiny_cfg(["a"], ["b"], 3, "out", base=get_cfg())
    cfg.merge_from_list(list(opts))
    return [problem.message for problem in backbone_problems(cfg)]


def test_what_fits_is_right():
    assert said() == []
    assert said("MODEL.META_ARCHITECTURE", "ProposalNetwork") == []
    assert said("MODEL.ANCHOR_GENERATOR.SIZES", [[9, 20]]) == []


@pytest.mark.parametrize(
    ("opts", "parts"),
    [
        (["MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p9"]],
         ["MODEL.RPN.IN_FEATURES", "'p9'", "p2, p3, p4"]),
        (["MODEL.ROI_HEADS.IN_FEATURES", []], ["MODEL.ROI_HEADS.IN_FEATURES is empty"]),
        (["MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p2"]], ["MODEL.ROI_HEADS", "'p2' 2 times"]),
        (["MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.IN_FEATURES",
          ["res2"]], ["MODEL.SEM_SEG_HEAD.IN_FEATURES", "'res2'"]),
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], ["MODEL.RETINANET.IN_FEATURES", "'p7'"]),
        (["MODEL.ANCHOR_GENERATOR.SIZES", [[8], [9]]],
         ["MODEL.ANCHOR_GENERATOR.SIZES", "each of the 5", "MODEL.RPN.IN_FEATURES", "got 2"]),
        (["MODEL.FPN.OUT_CHANNELS", 50, "MODEL.FPN.NORM", "GN"],
         ["MODEL.BACKBONE.NAME build_resnet_fpn_backbone cannot be built", "ValueError", "50"]),
    ],
)  # fmt: skip
def test_what_does_not_is_named(opts, parts):
    (line,) = said(*opts)
    assert all(part in line for part in parts), line


def test_a_builder_that_needs_memory_gets_it(monkeypatch):
    def needs_memory(cfg, input_shape):
        assert torch.ones(2).sum().item() == 2
        return BACKBONE_REGISTRY.get("build_resnet_fpn_backbone")(cfg, input_shape)

    names = {**BACKBONE_REGISTRY._obj_map, "needs_memory": needs_memory}
    monkeypatch.setattr(BACKBONE_REGISTRY, "_obj_map", names)
    assert said("MODEL.BACKBONE.NAME", "needs_memory") == []
    (line,) = said("MODEL.BACKBONE.NAME", "needs_memory", "MODEL.FPN.IN_FEATURES", ["res9"])
    assert "needs_memory cannot be built: KeyError" in line
    assert "MODEL.FPN.IN_FEATURES ['res9']" in line


def test_a_model_of_somebody_else_may_have_no_backbone(monkeypatch):
    class Own(torch.nn.Module):
        pass

    monkeypatch.setattr(META_ARCH_REGISTRY, "_obj_map", {"Own": Own})
    assert said("MODEL.META_ARCHITECTURE", "Own", "MODEL.FPN.IN_FEATURES", []) == []


def test_an_assertion_of_a_package_is_said_as_a_fault_of_the_config():
    cfg = tiny_cfg(["a"], ["b"], 3, "out", ["MODEL.FPN.FUSE_TYPE", "max"])
    with pytest.raises(ValueError, match=r"^The model of this config .*AssertionError.*fpn\.py"):
        with building("model"):
            build_backbone(cfg)


@pytest.mark.parametrize("error", [ValueError("A sentence."), RuntimeError("A bug.")])
def test_errors_of_this_project_and_of_the_user_stay(error):
    with pytest.raises(type(error)) as raised, building("model"):
        raise error
    assert raised.value is error
