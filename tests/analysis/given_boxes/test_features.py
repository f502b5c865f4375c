"""Features of given boxes: a slow reference, and files that are read again or refused."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, floor

import numpy as np
import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.data import DatasetCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_backbone
from PIL import Image
from torch import nn

from relation_heads.analysis.given_boxes import feature_files
from relation_heads.analysis.given_boxes.data import check_alike, joined
from relation_heads.analysis.given_boxes.feature_files import (
    feature_cfg,
    frozen_backbone,
    load_or_extract,
)
from relation_heads.analysis.given_boxes.features import extract
from tests.analysis.given_boxes.toys import toy
from tests.helpers import registered, tiny_coco

SMALL = ("INPUT.MIN_SIZE_TEST", 40, "INPUT.MAX_SIZE_TEST", 640)


class Tiny(Backbone):
    """Two maps, of strides 8 and 16."""

    size_divisibility = 16

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 8, stride=8), nn.Conv2d(4, 5, 2, stride=2)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        first = self.first(x).tanh()
        return {"a": first, "b": self.second(first).tanh()}

    def output_shape(self):
        return {"a": ShapeSpec(channels=4, stride=8), "b": ShapeSpec(channels=5, stride=16)}


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Tiny().eval()


def bilinear(image, y, x):
    """(C,) of a map (C, H, W) at a point whose whole numbers are centres of cells."""
    _, height, width = image.shape
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = floor(y), floor(x)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    return (
        (1 - dy) * ((1 - dx) * image[:, top, left] + dx * image[:, top, right])
        + dy * ((1 - dx) * image[:, below, left] + dx * image[:, below, right])
    )  # fmt: skip


def mean_of_bins(image, box, stride):
    """RoIAlign with half-pixel centres, 7 x 7 bins, as many points in a bin as cells."""
    x1, y1, x2, y2 = (float(v) / stride - 0.5 for v in box)
    bin_w, bin_h = (x2 - x1) / 7, (y2 - y1) / 7
    nx, ny = ceil(bin_w), ceil(bin_h)
    points = [
        bilinear(image, y1 + (row + (i + 0.5) / ny) * bin_h, x1 + (col + (j + 0.5) / nx) * bin_w)
        for row in range(7) for col in range(7) for i in range(ny) for j in range(nx)
    ]  # fmt: skip
    return torch.stack(points).mean(dim=0)


def test_features_equal_a_slow_reference(tmp_path, tiny):
    coco = tiny_coco(tmp_path, num_images=3, empty_image=True, crowd=True)
    with registered(coco) as name:
        found = extract(name, feature_cfg(opts=SMALL), tiny)
    assert found.names == ["000001.png", "000002.png"]  # the third has no box
    assert found.counts.tolist() == [2, 3]  # the first box of the first image is a crowd
    assert found.sizes.tolist() == [[40, 60]] * 2  # of 64 x 96
    assert found.class_names == ["class0", "class1", "class2"]
    given = [a for a in coco.dataset["annotations"] if not a["iscrowd"]]
    assert found.labels.tolist() == [a["category_id"] - 1 for a in given]
    row = 0
    for k, file in enumerate(found.names):
        picture = Image.open(coco.image_root / file).convert("RGB").resize((60, 40), Image.BILINEAR)
        image = (
            torch.tensor(np.asarray(picture), dtype=torch.float32).permute(2, 0, 1) - 127
        ) / 128
        padded = torch.zeros(1, 3, 48, 64)
        padded[0, :, :40, :60] = image
        with torch.no_grad():
            maps = {name: value[0] for name, value in tiny(padded).items()}
        boxes = [torch.tensor(a["bbox"]) * 0.625 for a in given if a["image_id"] == k + 1]
        boxes = [torch.cat([box[:2], box[:2] + box[2:]]) for box in boxes]
        for box in boxes:
            expected = torch.cat(
                [mean_of_bins(maps["a"], box, 8), mean_of_bins(maps["b"], box, 16)]
            )
            torch.testing.assert_close(found.boxes[row], box)
            torch.testing.assert_close(found.features[row].float(), expected, atol=2e-3, rtol=0)
            row += 1
        whole = (0, 0, 60, 40)
        expected = torch.cat(
            [mean_of_bins(maps["a"], whole, 8), mean_of_bins(maps["b"], whole, 16)]
        )
        torch.testing.assert_close(found.image_features[k].float(), expected, atol=2e-3, rtol=0)
    assert row == 5
    assert found.features.dtype == found.image_features.dtype == torch.half


@pytest.fixture
def files(tmp_path, tiny, monkeypatch):
    """Makes or reads the features of a data set, with the tiny backbone."""
    monkeypatch.setattr(feature_files, "frozen_backbone", lambda cfg: tiny)

    def load(name, *opts):
        cfg = feature_cfg(opts=(*SMALL, *opts))
        return load_or_extract([name], cfg, tmp_path / "features")[name]

    return load


def test_a_file_is_read_and_not_made_again(tmp_path, tiny, files):
    with registered(tiny_coco(tmp_path)) as name:
        made = files(name)
        assert tiny.calls == 4
        again = files(name)
    assert tiny.calls == 4
    assert again.fingerprint == made.fingerprint and again.names == made.names
    for field in ("counts", "sizes", "boxes", "labels", "features", "image_features"):
        assert torch.equal(getattr(again, field), getattr(made, field))
    assert [p.name for p in (tmp_path / "features").iterdir()] == [f"{name}.pt"]


def test_a_file_that_was_made_from_something_else_is_refused(tmp_path, tiny, files):
    coco = tiny_coco(tmp_path)
    with registered(coco) as name:
        made = files(name)
        with pytest.raises(ValueError, match=r"another INPUT.MIN_SIZE_TEST: 40, not 48\."):
            files(name, "INPUT.MIN_SIZE_TEST", 48)
        with torch.no_grad():
            tiny.second.bias += 1
        with pytest.raises(ValueError, match=f"{name}.pt was made from another weights"):
            files(name)
        with torch.no_grad():
            tiny.second.bias -= 1
        records = DatasetCatalog.get(name)
        records[0]["annotations"][0]["bbox"][0] += 1
        DatasetCatalog.remove(name)
        DatasetCatalog.register(name, lambda: records)
        with pytest.raises(ValueError, match="was made from another annotations"):
            files(name)
        path = tmp_path / "features" / f"{name}.pt"
        torch.save({"boxes": made.boxes}, path)
        with pytest.raises(ValueError, match="has no features of boxes"):
            files(name)


def test_bad_data_sets_get_one_sentence(tmp_path, tiny, files):
    with pytest.raises(ValueError, match="'nowhere' is not registered: see datasets"):
        files("nowhere")
    with registered(tiny_coco(tmp_path, num_images=1, empty_image=True)) as name:
        with pytest.raises(ValueError, match="has no image with a box"):
            files(name)


def test_the_default_backbone_is_lite0_without_fpn():
    cfg = feature_cfg()
    shapes = build_backbone(cfg).output_shape()
    assert {k: (v.channels, v.stride) for k, v in shapes.items()} == {
        "res3": (40, 8), "res4": (112, 16), "res5": (320, 32)
    }  # fmt: skip
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT) == (384, 640, "RGB")
    assert cfg.MODEL.WEIGHTS == "efficientnet-lite://ImageNetPretrained/0"


def test_a_backbone_has_the_weights_of_a_detector(tmp_path):
    """Those of a checkpoint, whose names begin with `backbone.`; all of them."""
    config = "RelationalScenes/faster_rcnn_shallow.yaml"
    cfg = feature_cfg(config)
    torch.manual_seed(1)
    weights = {f"backbone.{k}": v for k, v in build_backbone(cfg).state_dict().items()}
    torch.save({"model": weights}, tmp_path / "all.pth")
    torch.manual_seed(2)
    loaded = frozen_backbone(feature_cfg(config, ["MODEL.WEIGHTS", str(tmp_path / "all.pth")]))
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, weights[f"backbone.{name}"])
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    weights.pop("backbone.layers.0.weight")
    torch.save({"model": weights}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"part.pth lacks 1 tensor"):
        frozen_backbone(feature_cfg(config, ["MODEL.WEIGHTS", str(tmp_path / "part.pth")]))
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS is empty"):
        frozen_backbone(feature_cfg(config, ["MODEL.WEIGHTS", ""]))


def test_wrong_keys_get_one_sentence():
    with pytest.raises(ValueError, match=r"Non-existent key: MODEL\.NOTHING"):
        feature_cfg(opts=["MODEL.NOTHING", 1])


def test_images_are_chosen_with_their_boxes():
    whole = toy([2, 1, 3])
    part = whole.images([2, 0])
    assert part.names == ["toy_2.jpg", "toy_0.jpg"] and part.counts.tolist() == [3, 2]
    rows = [3, 4, 5, 0, 1]
    for field in ("boxes", "labels", "features"):
        assert torch.equal(getattr(part, field), getattr(whole, field)[rows])
    assert torch.equal(part.image_features, whole.image_features[[2, 0]])


def test_data_sets_are_joined_if_their_classes_are_the_same():
    first, second = toy([2, 1]), toy([3], seed=1, name="more")
    both = joined([first, second])
    assert both.counts.tolist() == [2, 1, 3] and both.made_from["dataset"] == "toy, more"
    assert both.names == ["toy_0.jpg", "toy_1.jpg", "more_0.jpg"]
    assert torch.equal(both.features[3:], second.features)
    assert len({part.fingerprint for part in (first, second, both)}) == 3
    with pytest.raises(ValueError, match="toy and more have different classes"):
        check_alike([first, replace(second, class_names=["cat"])])
