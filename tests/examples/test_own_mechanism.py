"""The example of a mechanism of one's own, in every form of heads."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import torch

from tests.modeling.common import C4, STOCK, build, detections, losses, maps, scattered

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_mechanism.py"
CASCADE = ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
FORMS = {"": STOCK, "Res5": C4, "Cascade": CASCADE}


@pytest.fixture(scope="module", autouse=True)
def example():
    """The module, which registers its heads once."""
    spec = importlib.util.spec_from_file_location("own_mechanism", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_takes_at_most_forty_lines():
    assert len(EXAMPLE.read_text().splitlines()) <= 40


@pytest.mark.parametrize("form", FORMS)
def test_it_trains_and_detects_in_every_form(form):
    model = build(*FORMS[form], "MODEL.ROI_HEADS.NAME", f"{form}MeanOfOthersROIHeads")
    result = losses(model)
    assert {"loss_cls_others", "loss_box_reg_others"} < result.keys()
    sum(result.values()).backward()
    for name, parameter in model.roi_heads.mechanism.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert all(len(found) for found in detections(model))


@torch.no_grad()
def test_what_the_predictor_sees_is_x_and_the_weighted_mean_of_the_other_regions(example):
    heads = build("MODEL.ROI_HEADS.NAME", "MeanOfOthersROIHeads").roi_heads.eval()
    seen = []
    heads.mechanism.predictor.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    heads.box_predictor.cls_score.weight.normal_()  # so that regions weigh differently
    counts = (4, 7)
    x = heads._embed(maps(), scattered(counts))
    heads(None, maps(), scattered(counts))
    p = heads.box_predictor.cls_score(x).double().softmax(dim=1)
    expected, start = [], 0
    for count in counts:
        for i in range(start, start + count):
            others = [j for j in range(start, start + count) if j != i]
            weight = sum(1 - p[j, -1] for j in others)
            mean = sum((1 - p[j, -1]) * x[j].double() for j in others) / weight
            expected.append(torch.cat([x[i].double(), mean]))
        start += count
    torch.testing.assert_close(seen[0].double(), torch.stack(expected), rtol=1e-4, atol=1e-5)
