import pytest

pytest.importorskip("detectron2")

import cv2
import numpy as np
import torch
from detectron2.modeling import build_model

from relation_heads.config import find_config, get_cfg
from relation_heads.data.relational_scenes import CLASSES, compose_scenes, render
from relation_heads.visualization.inspect import inspect_image, picture, relation_modules
from tests.tools.test_train_net import load_tool

CONFIG = "RelationalScenes/faster_rcnn_shallow_relation.yaml"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.merge_from_file(find_config(CONFIG))
    return build_model(cfg).eval()


def image():
    (scene,) = compose_scenes(1, seed=0)
    return torch.as_tensor(render(scene).transpose(2, 0, 1).copy())


def test_weights_belong_to_the_proposals_that_became_detections(model):
    seen = inspect_image(model, image(), CLASSES)
    regions = len(seen.boxes)
    assert regions > 0 and seen.weights.shape == (16, regions, regions)
    np.testing.assert_allclose(seen.weights.sum(-1), 1, rtol=1e-5)
    assert len(seen.detections) == len(seen.queries) == len(seen.detection_labels) > 0
    assert len(seen.labels) == regions
    # An untrained box regression moves a proposal little: a detection lies on the region it is said
    # to come from.
    found = seen.detections.pred_boxes.tensor.numpy()
    assert np.abs(found - seen.boxes[seen.queries]).max() < 8


def test_modules_are_chosen_by_name(model):
    assert list(relation_modules(model)) == [
        "roi_heads.box_head.relation1.0",
        "roi_heads.box_head.relation2.0",
    ]
    last = inspect_image(model, image(), CLASSES)
    first = inspect_image(model, image(), CLASSES, "roi_heads.box_head.relation1.0")
    assert np.abs(first.weights - last.weights).max() > 1e-4
    with pytest.raises(
        ValueError, match=r"no relation module 'nobody'; it has: roi_heads.box_head"
    ):
        inspect_image(model, image(), CLASSES, "nobody")


def test_picture_has_two_panels(model):
    seen = inspect_image(model, image(), CLASSES)
    drawn = picture(seen, 0, min_score=0.0)
    assert drawn.dtype == np.uint8 and drawn.shape[1] > 2 * 640
    assert (picture(seen, 0, head=1) != picture(seen, 0, head=2)).any()


def test_the_tool_writes_pictures_of_given_images(model, tmp_path):
    cv2.imwrite(str(tmp_path / "scene.png"), image().numpy().transpose(1, 2, 0))
    weights = tmp_path / "model.pth"
    torch.save({"model": model.state_dict()}, weights)
    tool = load_tool("visualize_relations")
    arguments = ["--config-file", CONFIG, "--output", str(tmp_path / "out"), "--min-score", "0"]
    arguments += ["--image", str(tmp_path / "scene.png"), "MODEL.WEIGHTS", str(weights)]
    assert tool.main(tool.parse_args(arguments)) == 1
    (path,) = (tmp_path / "out").glob("scene_*.png")
    assert cv2.imread(str(path)).shape[0] > 640


def test_a_stock_model_has_nothing_to_draw(tmp_path):
    tool = load_tool("visualize_relations")
    arguments = [
        "--config-file",
        "RelationalScenes/faster_rcnn_shallow.yaml",
        "--output",
        str(tmp_path),
    ]
    with pytest.raises(
        SystemExit, match=r"has no relation module: MODEL.ROI_HEADS.NAME is StandardROIHeads"
    ):
        tool.main(tool.parse_args(arguments))
