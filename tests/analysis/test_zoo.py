"""The zoo: its files are those that were published, they detect, and its page is complete."""

import pytest

pytest.importorskip("detectron2")

import json

import numpy as np
import torch

import relation_heads
from relation_heads import zoo
from relation_heads.analysis import publish
from relation_heads.data.scenes.scenes import CLASSES, compose_scenes, render
from tests.helpers import registered, tiny_cfg, tiny_coco
from tests.modeling.common import SGRN
from tests.tools.test_train_net import load_tool


@pytest.mark.parametrize("name", zoo.entries())
def test_a_detector_of_the_zoo(name):
    entry = zoo.entries()[name]
    path = zoo.FOLDER / entry["file"]
    assert path.stat().st_size == entry["bytes"] <= 12e6
    predictor = relation_heads.load(name, device="cpu")
    assert predictor.cfg.MODEL.ROI_HEADS.NAME == entry["heads"]
    content = torch.load(path, weights_only=True)
    assert content.keys() == {"model", "config", "class_names"}
    assert {v.dtype for v in content["model"].values()} <= {torch.float16, torch.int64}
    assert {"commit", "command", "seed", "machine"} <= entry["provenance"].keys()


def test_no_other_file_is_there():
    files = {path.name for path in zoo.FOLDER.glob("*.pth")}
    assert files == {entry["file"] for entry in zoo.entries().values()}


def test_a_file_that_was_changed_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_bytes(b"changed")
    index = {"mine": {"file": "a.pth", "sha256": "0" * 64}}
    (tmp_path / "zoo.json").write_text(json.dumps(index))
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    monkeypatch.setattr(zoo, "INDEX", tmp_path / "zoo.json")
    with pytest.raises(ValueError, match=r"a\.pth is not the file that was published"):
        relation_heads.load("mine")


def test_the_detector_of_scenes_knows_sides_that_no_crop_shows():
    """All diamonds look alike: their class is the side of the pole."""
    predictor = relation_heads.load("scenes-relation-signed", device="cpu")
    right = asked = 0
    for scene in compose_scenes(12, seed=123, mix={"direction": 1}):
        found = predictor(render(scene))
        for box, k in zip(scene.boxes, scene.classes, strict=True):
            if "_of_pole" in CLASSES[k]:
                asked += 1
                distance = np.abs(found.boxes - box).max(axis=1)
                near = [d for d in np.flatnonzero(distance < 8) if found.scores[d] > 0.5]
                right += [found.names[d] for d in near] == [CLASSES[k]]
    assert asked >= 12 and right >= 0.9 * asked


def test_publishing(tmp_path, monkeypatch):
    for module, name, path in (
        (zoo, "INDEX", "zoo.json"), (publish, "INDEX", "zoo.json"),
        (zoo, "FOLDER", ""), (publish, "FOLDER", ""),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, tmp_path / path)
    (tmp_path / "zoo.json").write_text("{}")
    with registered(tiny_coco(tmp_path)) as name:
        cfg = tiny_cfg([name], [name], 3, tmp_path / "out", SGRN, base=relation_heads.get_cfg())
        trainer = relation_heads.engine.RelationTrainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        texts = [f"--{text}={text} of it" for text in ("what", "data", "licence", "not-for")]
        checkpoint = str(tmp_path / "out" / "model_final.pth")
        load_tool("publish_weights").main([checkpoint, "--name", "mine", *texts])
    predictor = relation_heads.load("mine")
    assert predictor.class_names == ["class0", "class1", "class2"]
    weight = "roi_heads.box_predictor.cls_score.weight"
    trained = torch.load(checkpoint, weights_only=True)["model"][weight]
    assert torch.equal(predictor.model.state_dict()[weight], trained.half().float())
    entry = zoo.entries()["mine"]
    assert entry["what"] == "what of it" and {"AP", "AP50"} <= entry["results"]["bbox"].keys()
    page = publish.page(zoo.entries())
    assert "| `mine` | SGRNROIHeads |" in page and entry["sha256"] in page
    assert str(tmp_path) not in torch.load(tmp_path / "mine.pth", weights_only=True)["config"]


def test_publishing_wants_a_whole_card(capsys):
    tool = load_tool("publish_weights")
    with pytest.raises(SystemExit) as stop:
        tool.main(["a.pth", "--name", "mine", "--what", "it"])
    assert stop.value.code == 2
    assert "give --data, --licence, --not-for" in capsys.readouterr().err
