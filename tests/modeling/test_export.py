"""Whole models with every mechanism and every end: traced at one image size they serve others,
pickled and copied they find the same. Every form with every mechanism is in
`test_detectron2_cases`."""

import copy
import pickle

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.export import TracingAdapter

from tests.modeling.common import (
    C4,
    RCNN_REFINE,
    REFINE,
    REGIONS,
    SMALL_REASONING,
    SMALL_REASONING_RCNN,
    SMALL_SGRN,
    STOCK,
    assert_same_detections,
    batch,
    build,
    without_threshold,
)

CASCADE = ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
LEARN = ("MODEL.DUPLICATE_REMOVAL.LEARN", True)
END = "MODEL.DUPLICATE_REMOVAL.TEST_METHOD"
FORMS = {"": STOCK, "Res5": C4, "Cascade": CASCADE}
MECHANISMS = {
    "DuplicateRemoval": (),
    "Relation": (),
    "SGRN": SMALL_SGRN,
    "SGRN, two stages": (*SMALL_SGRN, *REFINE),
    "Reasoning": SMALL_REASONING,
    "ReasoningRCNN, two stages": (*SMALL_REASONING_RCNN, *RCNN_REFINE),
    "DuplicateRemoval, learned regions": REGIONS,
}
CASES = {
    # The ends look at nothing but classified regions, so that not every pair of a mechanism and an
    # end is needed.
    "SGRN": ("", "SGRN", "nms"),
    "Relation": ("", "Relation", "nms"),
    "Reasoning": ("", "Reasoning", "nms"),
    "Res5 soft_nms": ("Res5", "Relation", "soft_nms"),
    "Cascade learned": ("Cascade", "Relation", "learned"),
    "SGRN learned": ("", "SGRN, two stages", "learned"),
    "ReasoningRCNN": ("", "ReasoningRCNN, two stages", "nms"),
    "learned regions": ("", "DuplicateRemoval, learned regions", "nms"),
}


def model_of(case):
    form, name, end = CASES[case]
    heads = ("MODEL.ROI_HEADS.NAME", f"{form}{name.split(',')[0]}ROIHeads")
    mechanism = MECHANISMS[name]
    opts = (*FORMS[form], *mechanism, *heads, END, end, *(LEARN if end == "learned" else ()))
    model = build(*opts).eval()
    without_threshold(model)
    return model


def found(model, image):
    return model.inference([{"image": image}], do_postprocess=False)[0]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_trace_serves_other_sizes_and_numbers_of_regions(case):
    model = model_of(case)
    images = [batch((size,))[0]["image"] for size in ((64, 96), (96, 160), (52, 52))]

    def inference(m, inputs):
        return [{"instances": found(m, inputs[0]["image"])}]

    adapter = TracingAdapter(model, [{"image": images[0]}], inference)
    traced = torch.jit.trace(adapter, (images[0],), check_trace=False)
    for image in images:
        actual = adapter.outputs_schema(traced(image))[0]["instances"]
        assert_same_detections([actual], [found(model, image)], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_pickles_and_copies_find_the_same(case):
    model, image = model_of(case), batch()[0]["image"]
    expected = [found(model, image)]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same_detections([found(other, image)], expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("case", "part"),
    [
        ("SGRN", "a mechanism"),
        ("Relation", "relation modules"),
        ("Cascade learned", "an end that is not"),
    ],
)
def test_what_cannot_be_scripted_is_said_in_a_sentence(case, part):
    with pytest.raises(NotImplementedError, match=rf"cannot follow .*{part}.*torch\.jit\.trace"):
        torch.jit.script(model_of(case).roi_heads)
