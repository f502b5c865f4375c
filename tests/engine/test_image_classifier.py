"""Image classifiers from the folder to the accuracy, by the trainer, and on into a detector."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from PIL import Image

from relation_heads import get_cfg
from relation_heads.data.image_classes import (
    ImageClassMapper,
    load_cub,
    load_image_folder,
    register_image_folder,
)
from relation_heads.engine.checkpoint import ReportingCheckpointer
from relation_heads.engine.checks import check_cfg
from relation_heads.engine.train import train_or_evaluate
from relation_heads.evaluation.image_classes import ImageClassEvaluator, rank_of
from tests.helpers import registered, tiny_cfg, tiny_coco, unregister
from tests.tools.test_train_net import load_tool

COLOURS = {"blue": (20, 30, 220), "green": (20, 210, 40), "red": (220, 30, 20)}
ITERATIONS = 2
CLASSIFIER = (
    "MODEL.META_ARCHITECTURE", "ImageClassifier",
    "MODEL.CLASSIFIER.NUM_CLASSES", 3,
    "MODEL.CLASSIFIER.CROP_SIZE", 32,
    "MODEL.CLASSIFIER.RESIZE", 32,
    "SOLVER.MAX_ITER", ITERATIONS,
)  # fmt: skip
GLORE = [{"name": "GloRe", "stages": {"res4": [0]}, "num_nodes": 4}]
BACKBONES = {
    "fpn": ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
    "glore": (
        "MODEL.BACKBONE.NAME", "build_context_resnet_fpn_backbone",
        "MODEL.CONTEXT_BLOCKS.PLUGINS", GLORE,
    ),
    "blocks": (
        "MODEL.BACKBONE.NAME", "build_context_backbone",
        "MODEL.CONTEXT_BLOCKS.PLUGINS", [
            {"name": name, "stages": ["res5"], "position": "after_conv2"}
            for name in ("GC", "NL", "SE", "LR")
        ],
    ),
    "lr_net": ("MODEL.BACKBONE.NAME", "build_lr_net_fpn_backbone", "MODEL.LR_NET.DEPTH", 26),
    "lite": ("MODEL.BACKBONE.NAME", "build_efficientnet_lite_fpn_backbone"),
    "torchvision": (
        "MODEL.BACKBONE.NAME", "build_torchvision_fpn_backbone",
        "MODEL.TORCHVISION.NAME", "resnet18",
    ),
}  # fmt: skip


def folder_of_images(root: Path, per_class: int = 3) -> Path:
    """Plain images of 40 x 36 pixels, one colour for each class."""
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for k in range(per_class):
            picture = np.full((36, 40, 3), colour, np.uint8)
            picture[k : k + 9, 20:] = 128  # no two are alike
            Image.fromarray(picture).save(root / name / f"{k}.png")
    return root


def config(*opts, datasets=(), output="unused"):
    """A tiny classifier."""
    return tiny_cfg(datasets, datasets, 3, output, [*CLASSIFIER, *opts], base=get_cfg())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The command line that trained a classifier, its results, and where it wrote."""
    root = tmp_path_factory.mktemp("classifier")
    output, file = root / "out", root / "tiny.yaml"
    file.write_text(config(*BACKBONES["glore"], datasets=["plain"], output=output).dump())
    words = ["--config-file", str(file)]
    words += ["--image-folder", "plain", str(folder_of_images(root / "plain"))]
    run(*words)
    yield words, output
    unregister("plain")


def run(*words):
    return train_or_evaluate(load_tool("train_net").parse_args(list(words)))


def inputs():
    """Two images of noise, of classes 2 and 0."""
    noise = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    return [{"image": noise[0], "label": 2}, {"image": noise[1], "label": 0}]


def test_it_trains_and_says_what_comes_next(trained):
    _, output = trained
    *_, how_good, what_next = (output / "log.txt").read_text().splitlines()
    assert re.search(r"classification top1 \d+\.\d on plain", how_good)
    assert f"MODEL.WEIGHTS {output / 'model_final.pth'}" in what_next
    saved = torch.load(output / "model_final.pth", weights_only=True)
    assert saved["class_names"] == sorted(COLOURS)


def test_it_resumes_and_is_evaluated_again(trained):
    words, output = trained
    model = str(output / "model_final.pth")
    results = run(*words, "--eval-only", "MODEL.WEIGHTS", model)["classification"]
    assert results.keys() == {"top1"}  # top-5 of 3 classes says nothing
    assert results["top1"] in {100 * k / 9 for k in range(10)}
    run(*words, "--resume", "SOLVER.MAX_ITER", "3")
    lines = (output / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines].count(3) == 1
    assert torch.load(model, weights_only=True)["iteration"] == 2


def test_its_weights_go_on_into_a_detector(trained, tmp_path):
    _, output = trained
    weights = str(output / "model_final.pth")
    with registered(tiny_coco(tmp_path)) as name:
        cfg = tiny_cfg([name], [name], 3, tmp_path, BACKBONES["glore"], base=get_cfg())
        cfg.MODEL.WEIGHTS = weights
        check_cfg(cfg)
        detector = build_model(cfg)
    assert_taken_over(detector, weights, "backbone.bottom_up.")


def assert_taken_over(detector, weights, prefix):
    """All tensors below a prefix are those of the file, and there is no other one in it but the
    classifier's."""
    checkpointer = ReportingCheckpointer(detector)
    checkpointer.load(weights)
    saved = torch.load(weights, weights_only=True)["model"]
    own = {k: v for k, v in detector.state_dict().items() if k.startswith(prefix)}
    assert own and own.keys() == {k for k in saved if not k.startswith("classifier.")}
    assert all(torch.equal(v, saved[k]) for k, v in own.items())
    assert set(checkpointer.report.unexpected) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("kind", BACKBONES)
def test_every_backbone_is_trained_and_goes_on_into_a_detector(kind, tmp_path):
    cfg = config(*BACKBONES[kind])
    torch.manual_seed(0)
    model = build_model(cfg)
    loss = model.train()(inputs())["loss_cls"]
    loss.backward()
    assert 0.5 < float(loss.detach()) < 10  # frozen norms of random weights make it large
    trained = dict(model.named_parameters())
    assert all(p.grad is not None for p in trained.values() if p.requires_grad)
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    detector = build_model(tiny_cfg([], [], 3, tmp_path, BACKBONES[kind], base=get_cfg()))
    assert_taken_over(detector, str(tmp_path / "model.pth"), "backbone.bottom_up.")


PLAIN = {
    "c4": ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res4"]),
    "c5": (
        "MODEL.BACKBONE.NAME", "build_resnet_c5_backbone",
        "MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"], "MODEL.RESNETS.RES5_DILATION", 2,
    ),
    "lr_net": (
        "MODEL.BACKBONE.NAME", "build_lr_net_backbone",
        "MODEL.LR_NET.DEPTH", 26, "MODEL.LR_NET.OUT_FEATURES", ["res3"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind, channels", [("c4", 128), ("c5", 256), ("lr_net", 512)])
def test_the_last_map_without_an_fpn(kind, channels):
    """It is the mean over the places, and a linear layer."""
    model = build_model(config(*PLAIN[kind])).eval()
    assert model.classifier.weight.shape == (3, channels)
    with torch.no_grad():
        found = model(inputs())
        images = (torch.stack([x["image"] for x in inputs()]) - model.pixel_mean) / model.pixel_std
        x = list(model.network(images).values())[-1].flatten(2).mean(2)
        expected = torch.softmax(x @ model.classifier.weight.T + model.classifier.bias, 1)
    assert torch.allclose(torch.stack([f["class_probs"] for f in found]), expected)


def test_the_loss_is_of_the_labels():
    model = build_model(config(*BACKBONES["fpn"])).train()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([3.0, 2.0, 1.0]))
        loss = float(model(inputs())["loss_cls"])  # of the classes 2 and 0
    log_sum = np.log(np.exp([3.0, 2.0, 1.0]).sum())
    assert loss == pytest.approx(log_sum - (1.0 + 3.0) / 2)


def test_a_test_image_is_its_centre(tmp_path):
    """Twice as wide as high: resized to the short side, then cut left and right; channels BGR."""
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, 16:48] = (250, 100, 0)
    Image.fromarray(picture).save(tmp_path / "wide.png")
    record = {"file_name": str(tmp_path / "wide.png"), "image_id": 0, "label": 1}
    found = ImageClassMapper(config(), is_train=False)(record)
    assert found["label"] == 1 and found["image"].dtype == torch.uint8
    expected = torch.tensor([0, 100, 250], dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 32)
    assert torch.equal(found["image"], expected)


def test_crops_of_training_are_random_parts_and_flips(tmp_path):
    columns = np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    Image.fromarray(columns).save(tmp_path / "ramp.png")
    record = {"file_name": str(tmp_path / "ramp.png"), "image_id": 0, "label": 0}

    def spans(*opts):
        """Of 40 crops: how many grey levels each has from its left to its right edge."""
        mapper = ImageClassMapper(config(*opts), is_train=True)
        torch.manual_seed(0)
        crops = [mapper(record)["image"].float() for _ in range(40)]
        assert {tuple(c.shape) for c in crops} == {(3, 32, 32)}
        return np.array([float(c[0, 0, -1] - c[0, 0, 0]) for c in crops])

    some = spans("INPUT.RANDOM_FLIP", "none")
    assert (some > 0).all() and some.min() < 30 < some.max()
    assert (spans("INPUT.RANDOM_FLIP", "none", "MODEL.CLASSIFIER.MIN_AREA", 1.0) > 50).all()
    flipped = (spans() < 0).mean()
    assert 0.2 < flipped < 0.8


def test_a_folder_of_folders(tmp_path):
    folder = folder_of_images(tmp_path / "images", per_class=2)
    records = load_image_folder(str(folder))
    assert [r["label"] for r in records] == [0, 0, 1, 1, 2, 2]
    assert [Path(r["file_name"]).parent.name for r in records[::2]] == sorted(COLOURS)
    try:
        register_image_folder("mine", str(folder))
        register_image_folder("mine", str(folder))
        assert DatasetCatalog.get("mine") == records
        with pytest.raises(ValueError, match=r"'mine'.*images instead of .*other"):
            (tmp_path / "other" / "red").mkdir(parents=True)
            register_image_folder("mine", str(tmp_path / "other"))
    finally:
        unregister("mine")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        register_image_folder("mine", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"red"):
        register_image_folder("mine", str(folder / "red"))  # has no folders
    assert "mine" not in DatasetCatalog


def test_cub(tmp_path):
    lines = {
        "images": ["1 001.A/a.jpg", "2 001.A/b c.jpg", "3 002.B/d.jpg"],
        "image_class_labels": ["1 1", "2 1", "3 2"],
        "train_test_split": ["1 1", "2 0", "3 1"],
    }

    def write():
        for name, rows in lines.items():
            (tmp_path / f"{name}.txt").write_text("\n".join(rows) + "\n")

    write()
    train, test = (load_cub(str(tmp_path), train=part) for part in (True, False))
    images = tmp_path / "images"
    assert train == [
        {"file_name": str(images / "001.A/a.jpg"), "image_id": "1", "label": 0},
        {"file_name": str(images / "002.B/d.jpg"), "image_id": "3", "label": 1},
    ]
    assert [r["file_name"] for r in test] == [str(images / "001.A/b c.jpg")]
    lines["image_class_labels"][1] = "2 A"
    write()
    with pytest.raises(ValueError, match=r"image_class_labels.txt.*image 2, got 'A'"):
        load_cub(str(tmp_path), train=True)
    lines["train_test_split"] = ["1"]
    write()
    with pytest.raises(ValueError, match=r"train_test_split.txt, line 1,"):
        load_cub(str(tmp_path), train=True)


def test_ranks_and_shares():
    probs = torch.tensor([0.1, 0.4, 0.2, 0.3])
    assert [rank_of(probs, label) for label in range(4)] == [3, 0, 2, 1]
    assert rank_of(torch.full((4,), 0.25), 1) == 3  # says nothing
    assert rank_of(torch.full((4,), float("nan")), 1) == 3
    evaluator = ImageClassEvaluator()
    evaluator.reset()
    probs = torch.arange(8) / 28  # label 7 is first, 3 fifth, 2 sixth
    evaluator.process([{"label": k} for k in (7, 3, 2, 2)], [{"class_probs": probs}] * 4)
    assert evaluator.evaluate() == {"classification": {"top1": 25.0, "top5": 50.0}}
    evaluator.reset()
    with pytest.raises(ValueError, match="No image"):
        evaluator.evaluate()


@pytest.mark.parametrize(
    "opts, said",
    [
        (("MODEL.CLASSIFIER.NUM_CLASSES", 4), r"CLASSIFIER.NUM_CLASSES is 4, but plain has 3"),
        (("MODEL.CLASSIFIER.RESIZE", 31), r"RESIZE 31 .*CROP_SIZE 32"),
        (("MODEL.CLASSIFIER.MIN_AREA", 0.0), r"MODEL.CLASSIFIER.MIN_AREA .*0.0"),
        (("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"), r"plain .*GeneralizedRCNN .*boxes"),
    ],
)
def test_what_cannot_work_is_said_first(trained, opts, said):
    with pytest.raises(ValueError, match=said):
        check_cfg(config(*opts, datasets=["plain"]))


def test_objects_are_no_classes_of_images(tmp_path):
    with registered(tiny_coco(tmp_path)) as name:
        with pytest.raises(ValueError, match=rf"{name} has objects.*--image-folder"):
            check_cfg(config(datasets=[name]))
