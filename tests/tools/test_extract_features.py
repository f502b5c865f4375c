"""Box features of detections, of stock and of relational models."""

import pytest

pytest.importorskip("detectron2")

import cv2
import numpy as np
import torch
from detectron2.modeling import build_model

from relation_heads.engine.features import box_features, watchable
from tests.modeling.common import C4, MASK, SGRN, STOCK, batch, build, config, without_threshold
from tests.tools.test_train_net import load_tool

CASCADE = ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads",
           "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)  # fmt: skip
STOCK_CONFIG = "RelationalScenes/faster_rcnn_shallow.yaml"


def models(*opts):
    """The model as a user has it, and the one whose heads can be watched, with equal weights."""
    user = build(*opts).eval()
    ours = build_model(watchable(config(*opts))).eval()
    ours.load_state_dict(user.state_dict())
    for model in (user, ours):
        without_threshold(model)
    return user, ours


@pytest.mark.parametrize(
    "opts", [(*STOCK, *MASK), C4, CASCADE, SGRN], ids=["FPN + mask", "C4", "Cascade", "SGRN"]
)
@torch.no_grad()
def test_features_belong_to_the_detections_of_the_same_model(opts):
    user, ours = models(*opts)
    inputs = batch()
    inputs[1].update(height=120, width=160)  # detections come in pixels of the original image
    for record, found in zip(inputs, box_features(ours, inputs), strict=True):
        expected = user([record])[0]["instances"]
        np.testing.assert_array_equal(found["boxes"], expected.pred_boxes.tensor)
        np.testing.assert_array_equal(found["scores"], expected.scores)
        np.testing.assert_array_equal(found["classes"], expected.pred_classes)
        assert found["features"].shape[0] == len(expected) > 0
        assert (found["height"], found["width"]) == (record["height"], record["width"])
        if not str(opts[1]).startswith(("Cascade", "SGRN")):  # x alone gives the score
            x = torch.as_tensor(found["features"])
            scores = user.roi_heads.box_predictor(x)[0].softmax(dim=1)
            own = scores[range(len(x)), expected.pred_classes]
            torch.testing.assert_close(own, expected.scores)


def test_what_has_no_box_features_is_named():
    for opts, value in (
        (("MODEL.META_ARCHITECTURE", "RetinaNet"), "RetinaNet"),
        (("MODEL.ROI_HEADS.NAME", "RROIHeads"), "RROIHeads"),
    ):
        with pytest.raises(ValueError, match=f"{opts[0]} must be .* got {value}"):
            watchable(config(*opts))


@pytest.mark.parametrize("per_set", [False, True])
def test_the_tool_writes_files(tmp_path, per_set):
    from relation_heads.config import find_config, get_cfg

    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.merge_from_file(find_config(STOCK_CONFIG))
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    generator = np.random.default_rng(0)
    arguments = []
    for name in ("a", "b"):
        image = generator.integers(0, 255, (90, 120, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
        arguments += ["--image", str(tmp_path / f"{name}.png")]
    output = tmp_path / ("features.npz" if per_set else "features")
    tool = load_tool("extract_features")
    arguments += ["MODEL.WEIGHTS", str(tmp_path / "model.pth"), "TEST.DETECTIONS_PER_IMAGE", "7"]
    arguments += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    tool.main(["--config-file", STOCK_CONFIG, "--output", str(output), *arguments])
    if per_set:
        found = np.load(output)  # without pickles
        assert found["counts"].tolist() == [7, 7]
        assert found["sizes"].tolist() == [[90, 120], [90, 120]]
        assert len(found["boxes"]) == len(found["features"]) == len(found["classes"]) == 14
        return
    assert sorted(p.name for p in output.iterdir()) == ["a.npz", "b.npz"]
    a = np.load(output / "a.npz")
    assert a["boxes"].shape == (7, 4) and a["features"].shape[0] == 7
    assert a["classes"].dtype == np.int64 and a["scores"].dtype == np.float32
    assert int(a["height"]) == 90
