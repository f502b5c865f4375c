import pytest

pytest.importorskip("detectron2")

import argparse
import re

import cv2
import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from relation_heads.config import find_config, get_cfg
from relation_heads.data.scenes.scenes import CLASSES, compose_scenes, render
from relation_heads.engine import pictures
from relation_heads.engine.predictor import Predictor, relation_modules
from relation_heads.modeling import watch
from tests.modeling.common import NUM_CLASSES, batch, build
from tests.tools.test_train_net import load_tool

CONFIG = "RelationalScenes/faster_rcnn_shallow_relation.yaml"
STOCK_CONFIG = "RelationalScenes/faster_rcnn_shallow.yaml"
SGRN = ("MODEL.ROI_HEADS.NAME", "SGRNROIHeads", "MODEL.SGRN.GRAPH_DIMS", [32, 16],
        "MODEL.SGRN.LATENT_DIM", 16, "MODEL.SGRN.NUM_NEIGHBORS", 6)  # fmt: skip
CASCADE = ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
TWO_STAGES = ("MODEL.SGRN.REFINE", True, "MODEL.SGRN.FOREGROUND_EDGES", True)
NAMES = [f"class{k}" for k in range(NUM_CLASSES)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.merge_from_file(find_config(CONFIG))
    return build_model(cfg).eval()


def image():
    (scene,) = compose_scenes(1, seed=0)
    return torch.as_tensor(render(scene).transpose(2, 0, 1).copy())


def look(model, image, names):
    """What a predictor sees in an image (3, H, W) BGR that is not resized."""
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(names)
    pixels = image.to(torch.uint8).numpy().transpose(1, 2, 0)
    return Predictor(model, cfg, names)(pixels, relations=True)


def test_weights_belong_to_the_proposals_that_became_detections(model):
    found = look(model, image(), CLASSES)
    heard = found.relations_of()
    regions = len(heard.boxes)
    assert regions > 0 and heard.weights.shape == (16, len(found), regions)
    np.testing.assert_allclose(heard.weights.sum(-1), 1, rtol=1e-5)
    assert len(found) == len(heard.region) == len(found.names) > 0
    assert len(heard.labels) == regions
    # An untrained box regression moves a proposal little: a detection lies on the region it is said
    # to come from.
    assert np.abs(found.boxes - heard.boxes[heard.region]).max() < 8


def test_modules_are_chosen_by_name(model):
    assert list(relation_modules(model)) == [
        "roi_heads.box_head.relation1.0",
        "roi_heads.box_head.relation2.0",
    ]
    found = look(model, image(), CLASSES)
    first, last = found.relations_of("roi_heads.box_head.relation1.0"), found.relations_of()
    assert last.module == "roi_heads.box_head.relation2.0"
    assert np.abs(first.weights - last.weights).max() > 1e-4
    with pytest.raises(
        ValueError, match=r"no relation module 'nobody'; there are: roi_heads.box_head"
    ):
        found.relations_of("nobody")


def test_picture_has_two_panels(model):
    found = look(model, image(), CLASSES)
    drawn = found.picture_of_relations(0, min_score=0.0)
    assert drawn.dtype == np.uint8 and drawn.shape[1] > 2 * 640
    one, two = (found.picture_of_relations(0, head=head) for head in (1, 2))
    assert (one != two).any()
    for head in (-1, 16):
        with pytest.raises(ValueError, match=f"head must be in 0 to 15, got {head}"):
            found.picture_of_relations(0, head=head)


def test_the_tool_writes_pictures_of_given_images(model, tmp_path):
    cv2.imwrite(str(tmp_path / "scene.png"), image().numpy().transpose(1, 2, 0))
    weights = tmp_path / "model.pth"
    torch.save({"model": model.state_dict()}, weights)
    tool = load_tool("visualize_relations")
    arguments = ["--config-file", CONFIG, "--output", str(tmp_path / "out"), "--min-score", "0"]
    arguments += ["--image", str(tmp_path / "scene.png"), "MODEL.WEIGHTS", str(weights)]
    tool.main(arguments)
    (path,) = (tmp_path / "out").glob("scene_*.png")
    assert cv2.imread(str(path)).shape[0] > 640


def test_pictures_ask_the_classes_in_turn(tmp_path, monkeypatch):
    """The surest of the class asked least often so far; of --class always the surest."""
    names = [["a", "a", "b"], ["a", "b", "c"], ["a", "c"], ["b", "a", "c"], ["a"]]
    asked = []

    class Found:
        def __init__(self, i, file_name):
            self.names, self.file_name = names[i], file_name
            self.scores = np.linspace(0.9, 0.6, len(names[i]))

        def picture_of_relations(self, d, **_):
            asked.append((self.names[d], d))
            return np.zeros((4, 4, 3), np.uint8)

    class Detector:
        model, class_names = torch.nn.Module(), ["a", "b", "c"]

        def stream(self, files, relations):
            return map(Found, range(len(files)), files)

    monkeypatch.setattr(pictures, "load", lambda *args, **keys: Detector())
    monkeypatch.setattr(pictures, "relation_modules", lambda model: {"graph": model})
    for i in range(len(names)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((4, 4, 3), np.uint8))
    args = argparse.Namespace(
        images=[str(tmp_path)], model="", device=None, half=False, opts=[], class_name=None,
        module=None, head=None, top=5, min_score=0.5, num=None, output=tmp_path / "out",
    )  # fmt: skip
    assert pictures.write_pictures(args) == 5
    assert asked == [("a", 0), ("b", 1), ("c", 1), ("b", 0), ("a", 0)]
    asked.clear()
    args.class_name = "a"
    assert pictures.write_pictures(args) == 5
    assert asked == [("a", 0), ("a", 0), ("a", 0), ("a", 1), ("a", 0)]


@pytest.mark.parametrize(
    ("opts", "name"),
    [
        ([], "StandardROIHeads"),
        (["MODEL.ROI_HEADS.NAME", "SGRNROIHeads", "MODEL.SGRN.GRAPH_DIMS", "[]"], "SGRNROIHeads"),
    ],
)
def test_a_model_without_relations_has_nothing_to_draw(tmp_path, capsys, opts, name):
    cfg = get_cfg()
    cfg.merge_from_file(find_config(STOCK_CONFIG))
    cfg.merge_from_list(opts)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    tool = load_tool("visualize_relations")
    arguments = ["--config-file", STOCK_CONFIG, "--output", str(tmp_path), *opts]
    arguments += ["MODEL.WEIGHTS", str(tmp_path / "model.pth")]
    with pytest.raises(SystemExit) as stop:
        tool.main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert re.search(rf"has no relation module and no SGRN graph: .*NAME is {name}\.", said)


ONE_STAGE = ("MODEL.SGRN.FOREGROUND_EDGES", False)


@pytest.fixture(scope="module", params=[ONE_STAGE, TWO_STAGES], ids=["one stage", "two stages"])
def sgrn(request):
    """A head whose boxes move far, so that every region's and every class's is another."""
    model = build(*SGRN, *request.param).eval()
    for predictor in (model.roi_heads.box_predictor, model.roi_heads.mechanism.predictor):
        torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.5)
        torch.nn.init.normal_(predictor.cls_score.weight, std=0.1)
        predictor.test_score_thresh = 0.0
    return model


def recorded(module, image, model):
    """What a predictor sees, and the (inputs, output) of `module` meanwhile."""
    calls = []
    handle = module.register_forward_hook(lambda _, inputs, output: calls.append((inputs, output)))
    seen = look(model, image, NAMES)
    handle.remove()
    (call,) = calls
    return seen, *call


@torch.no_grad()
def test_sgrn_weights_are_the_softmax_of_the_kept_scores(sgrn):
    graph = sgrn.roi_heads.mechanism.graph
    assert relation_modules(sgrn) == {"roi_heads.mechanism.graph": graph}
    seen, (features, _, regions, key_bias), _ = recorded(graph, batch()[0]["image"], sgrn)
    heard = seen.relations_of()
    assert len(regions) > 6 and heard.weights.shape == (1, len(seen), len(regions))
    np.testing.assert_allclose(heard.weights.sum(-1), 1, rtol=1e-5)
    assert (key_bias is not None) == (sgrn.roi_heads.mechanism.resampler is not None)
    z = graph.learner(features)
    e = z @ z.T + (0 if key_bias is None else key_bias)
    rest = e < e.topk(6, dim=1).values[:, -1:]
    expected = e.masked_fill(rest, -torch.inf).softmax(dim=1)
    np.testing.assert_allclose(heard.weights[0], expected[heard.region], rtol=1e-4, atol=1e-6)
    assert len(heard.labels) == len(regions)


@torch.no_grad()
def test_sgrn_with_fewer_regions_than_neighbours(sgrn, monkeypatch):
    monkeypatch.setattr(sgrn.roi_heads.mechanism.graph, "num_neighbors", 1000)
    heard = look(sgrn, batch()[0]["image"], NAMES).relations_of()
    np.testing.assert_allclose(heard.weights.sum(-1), 1, rtol=1e-5)
    assert (heard.weights > 0).all()


@torch.no_grad()
def test_sgrn_detections_are_the_boxes_of_their_regions(sgrn):
    predictor = sgrn.roi_heads.mechanism.predictor
    seen, _, predictions = recorded(predictor, batch()[0]["image"], sgrn)
    found, heard = seen.instances, seen.relations_of()
    regions = Instances(found.image_size, proposal_boxes=Boxes(torch.as_tensor(heard.boxes)))
    (boxes,) = predictor.predict_boxes(predictions, [regions])
    boxes = Boxes(boxes.unflatten(1, (NUM_CLASSES, 4))[heard.region, found.pred_classes])
    boxes.clip(found.image_size)
    assert len(found) > 10 and len(set(heard.region.tolist())) > 5
    torch.testing.assert_close(found.pred_boxes.tensor, boxes.tensor)
    assert seen.names == [NAMES[k] for k in found.pred_classes]
    assert seen.picture_of_relations(0, min_score=0.0).shape[1] > 2 * 640


@torch.no_grad()
def test_sgrn_detections_of_both_stages_come_from_a_region(sgrn, monkeypatch):
    monkeypatch.setattr(sgrn.roi_heads.mechanism, "ensemble", "union_nms")
    first, second = sgrn.roi_heads.box_predictor, sgrn.roi_heads.mechanism.predictor
    calls = {}
    for predictor in (first, second):
        predictor.register_forward_hook(lambda m, _, out: calls.update({m: out}))
    with watch() as seen:
        (found,) = sgrn.inference([batch()[0]], do_postprocess=False)
    (proposals,) = seen.last.proposals  # of both stages, one after the other
    half = len(proposals) // 2
    for predictor, rows in ((first, slice(0, half)), (second, slice(half, None))):
        mine = (found.region < half) == (predictor is first)
        assert mine.any()
        (boxes,) = predictor.predict_boxes(calls[predictor], [proposals[rows]])
        boxes = boxes.unflatten(1, (NUM_CLASSES, 4))[
            found.region[mine] % half, found.pred_classes[mine]
        ]
        boxes = Boxes(boxes)
        boxes.clip(found.image_size)
        torch.testing.assert_close(found.pred_boxes.tensor[mine], boxes.tensor)
    heard = look(sgrn, batch()[0]["image"], NAMES).relations_of()
    assert max(heard.region) < len(heard.boxes) == half


def test_relations_of_a_cascade_are_named_by_stage():
    model = build(*CASCADE, "MODEL.ROI_HEADS.NAME", "CascadeRelationROIHeads").eval()
    found = look(model, batch()[0]["image"], NAMES)
    second, third = (found.relations_of(f"roi_heads.box_head.{k}.relation2.0") for k in (1, 2))
    np.testing.assert_allclose(second.weights.sum(-1), 1, rtol=1e-5)
    assert (second.boxes != third.boxes).any()


@pytest.mark.parametrize("stages", [1, 2])
def test_the_tool_draws_sgrn_and_its_kernels(tmp_path, capsys, stages):
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.merge_from_file(find_config(STOCK_CONFIG))
    opts = [*SGRN, "MODEL.SGRN.REFINE", stages == 2]
    cfg.merge_from_list(opts)
    weights, scene, out = (tmp_path / name for name in ("model.pth", "scene.png", "out"))
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    cv2.imwrite(str(scene), image().numpy().transpose(1, 2, 0))
    tool = load_tool("visualize_relations")
    arguments = ["--config-file", STOCK_CONFIG, "--output", str(out), "--min-score", "0"]
    arguments += ["--image", str(scene), "MODEL.WEIGHTS", str(weights), *map(str, opts)]
    tool.main(arguments)
    (drawn,) = out.glob("scene_*.png")
    kernels = [out / "kernels_layer1.png", out / "kernels_layer2.png"]
    assert sorted(out.iterdir()) == sorted([drawn, *kernels])
    printed = capsys.readouterr().out
    assert all(f"{path}\n" in printed for path in [drawn, *kernels])
    first, second = (cv2.imread(str(path)) for path in kernels)
    assert first.shape == second.shape and (first != second).any()
