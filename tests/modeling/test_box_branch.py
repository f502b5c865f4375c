"""The box branch with given regions is the one of the heads, also exported, for other numbers."""

import pytest

pytest.importorskip("detectron2")

import torch

from relation_heads.engine.box_branch import (
    BoxBranch,
    difference_of,
    example_of,
    export_branch,
    onnx_of,
)
from relation_heads.modeling import watch
from tests.modeling.common import (
    C4,
    CASCADE,
    RCNN_REFINE,
    REASONING,
    REASONING_RCNN,
    REFINE,
    RELATION,
    SGRN,
    batch,
    build,
    without_threshold,
)

# SGRN's heads give the same classification, since a mechanism of "mean" or "last" is in the branch.
MODELS = {"relation": RELATION, "sgrn": SGRN, "reasoning_rcnn": REASONING_RCNN,
          "reasoning": REASONING}  # fmt: skip
SIZES = ((64, 96), (96, 160))
LARGE = ((128, 160), (160, 256))  # `torch.export` makes a constant of a side of one cell, as of p6


def model_of(opts):
    model = build(*opts, "MODEL.RPN.POST_NMS_TOPK_TEST", 30).eval()
    without_threshold(model)
    return model


def pictures(sizes=SIZES):
    return [batch((size,))[0]["image"].float() for size in sizes]


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_it_classifies_as_the_heads_do(name):
    model, image = model_of(MODELS[name]), pictures()[0]
    with watch() as seen:
        model.inference([{"image": image}])
    probabilities, boxes = BoxBranch(model.roi_heads).eval()(*example_of(model, image))
    torch.testing.assert_close(probabilities, torch.cat(list(seen.last.probabilities())))
    torch.testing.assert_close(boxes, torch.cat(list(seen.last.boxes())))


@torch.no_grad()
def test_of_stock_heads():
    model, image = model_of(()), pictures()[0]
    pooled, boxes, size = example_of(model, image)
    heads = model.roi_heads
    probabilities, moved = BoxBranch(heads).eval()(pooled, boxes, size)
    logits, deltas = heads.box_predictor(heads.box_head(pooled))
    torch.testing.assert_close(probabilities, logits.softmax(1))
    torch.testing.assert_close(
        moved, heads.box_predictor.box2box_transform.apply_deltas(deltas, boxes)
    )


@pytest.mark.parametrize("name", ["relation", "sgrn", "reasoning_rcnn"])
@torch.no_grad()
def test_exported_it_holds_for_other_numbers_of_regions(name):
    model = model_of(MODELS[name])
    branch = BoxBranch(model.roi_heads).eval()
    images = pictures(LARGE if name == "reasoning_rcnn" else SIZES)
    first, second = (example_of(model, image) for image in images)
    second = (second[0][:7], second[1][:7], *second[2:])
    program = export_branch(branch, first)
    for example in (first, second):
        assert not difference_of(program.module()(*example), branch(*example), 1e-5)
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    _, run = onnx_of(program)
    for example in (first, second):
        assert not difference_of(run(*example), branch(*example), 1e-4)


def test_other_heads_are_refused():
    for opts in (CASCADE, C4):
        with pytest.raises(ValueError, match="FPN, DC5 and C5 models"):
            BoxBranch(build(*opts, settle=False).roi_heads)
    with pytest.raises(ValueError, match=r"MODEL\.SGRN\.REFINE"):
        BoxBranch(build(*SGRN, *REFINE, settle=False).roi_heads)
    with pytest.raises(ValueError, match=r"MODEL\.REASONING_RCNN\.REFINE"):
        BoxBranch(build(*REASONING_RCNN, *RCNN_REFINE, settle=False).roi_heads)
