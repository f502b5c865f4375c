"""From a checkpoint to detections: every kind of image, and the file alone is enough."""

import pytest

pytest.importorskip("detectron2")

import cv2
import numpy as np
import torch
from detectron2.engine import DefaultPredictor
from PIL import Image as PILImage

import relation_heads
from relation_heads.engine import RelationTrainer
from relation_heads.engine.predictor import Predictor
from relation_heads.layers import GloRe
from relation_heads.modeling import watch
from tests.helpers import registered, tiny_cfg, tiny_coco
from tests.modeling.common import (
    C4,
    NUM_CLASSES,
    REASONING,
    RELATION,
    SGRN,
    SMALL_RELATION,
    build,
)

HEADS = {"relation": (*RELATION, *SMALL_RELATION), "sgrn": SGRN, "reasoning": REASONING}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of one iteration by head; the data set is registered no more."""
    folder = tmp_path_factory.mktemp("trained")
    files = {}
    with registered(tiny_coco(folder)) as name:
        for head, opts in {"stock": (), **HEADS}.items():
            out = folder / head
            opts = (*opts, "SOLVER.MAX_ITER", 1, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
            cfg = tiny_cfg([name], [], 3, out, opts, base=relation_heads.get_cfg())
            trainer = RelationTrainer(cfg)
            trainer.resume_or_load(resume=False)
            trainer.train()
            files[head] = out / "model_final.pth"
    return files


@pytest.fixture
def photo(tmp_path):
    """A file whose width, height and channels all differ; and its pixels, BGR."""
    pixels = np.random.default_rng(0).integers(0, 256, (70, 110, 3), dtype=np.uint8)
    pixels[:, :, 0] //= 3
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), pixels)
    return path, pixels


def test_the_file_alone_is_enough(trained, photo):
    path, pixels = photo
    predictor = relation_heads.load(trained["relation"])
    assert predictor.class_names == ["class0", "class1", "class2"]
    assert predictor.cfg.MODEL.ROI_HEADS.NAME == "RelationROIHeads"
    found = predictor(path)
    expected = DefaultPredictor(predictor.cfg)(pixels)["instances"]
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.boxes, expected.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)
    assert found.names == [predictor.class_names[k] for k in expected.pred_classes]
    assert found.file_name == str(path) and (found.image == pixels).all()
    assert found.features is None and found.relations == () and found.attention == {}


@pytest.mark.parametrize("kind", ["str", "pil", "pil L", "array", "uint8 tensor", "float tensor"])
def test_every_kind_of_image_is_the_same_image(trained, photo, kind):
    path, pixels = photo
    if kind == "pil L":  # grey
        pixels = np.repeat(pixels[:, :, :1], 3, axis=2)
    rgb = torch.from_numpy(np.ascontiguousarray(pixels[:, :, ::-1])).permute(2, 0, 1)
    image = {
        "str": str(path),
        "pil": PILImage.fromarray(rgb.permute(1, 2, 0).numpy()),
        "pil L": PILImage.fromarray(pixels[:, :, 0]),
        "array": pixels,
        "uint8 tensor": rgb,
        "float tensor": rgb / 255,
    }[kind]
    found = relation_heads.load(trained["stock"])(image)
    np.testing.assert_array_equal(found.image, pixels)


def test_a_photograph_that_lies_on_its_side_is_turned(trained, tmp_path):
    upright = PILImage.fromarray(np.zeros((70, 110, 3), np.uint8))
    exif = upright.getexif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    upright.save(tmp_path / "turned.jpg", exif=exif)
    assert relation_heads.load(trained["stock"])(tmp_path / "turned.jpg").image.shape[:2] == (
        110,
        70,
    )


@pytest.mark.parametrize("head", HEADS)
def test_many_images_find_what_each_one_finds(trained, photo, head):
    path, pixels = photo
    predictor = relation_heads.load(trained[head])
    images = [path, pixels[::-1].copy(), pixels[:, ::-1].copy()]  # of one size: no padding
    what = {"relations": True, "features": True}
    alone = [predictor(image, **what) for image in images]
    for together in (
        predictor(images, **what),
        list(predictor.stream(images, batch_size=2, **what)),
    ):
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(one.boxes, other.boxes, rtol=1e-3, atol=1e-2)
            assert one.names == other.names
            np.testing.assert_allclose(one.features, other.features, rtol=1e-2, atol=1e-3)
            for a, b in zip(one.relations, other.relations, strict=True):
                np.testing.assert_allclose(a.weights, b.weights, rtol=1e-2, atol=1e-2)
                np.testing.assert_allclose(a.boxes, b.boxes, rtol=1e-3, atol=1e-2)
    assert predictor([]) == []


def test_relations_are_those_of_the_model(trained, photo):
    path, pixels = photo
    predictor = relation_heads.load(trained["relation"])
    found = predictor(path, relations=True, features=True)
    with watch() as seen, torch.no_grad():
        (output,) = predictor.model([predictor._input(pixels)])
    for heard, listened in zip(found.relations, seen.listened, strict=True):
        assert dict(predictor.model.named_modules())[heard.module] is listened.module
        region = output["instances"].region
        torch.testing.assert_close(
            torch.from_numpy(heard.weights), listened.weights[0][:, region], rtol=1e-4, atol=1e-6
        )
        # The model saw 64 x 101 pixels, or what the config says: boxes are of the image's 70 x 110.
        height, width = listened.regions.image_sizes[0]
        unit = torch.tensor([width, height] * 2)
        ours = torch.from_numpy(heard.boxes) / torch.tensor([110.0, 70.0] * 2)
        torch.testing.assert_close(ours, listened.regions.boxes / unit, rtol=1e-4, atol=1e-5)
        assert heard.heard(0) == pytest.approx(heard.weights[:, 0].mean(0))
        assert heard.heard(0, head=1) == pytest.approx(heard.weights[1, 0])
    x = seen.features(0, output["instances"])
    np.testing.assert_allclose(found.features, x, rtol=1e-4, atol=1e-5)


def test_attention_of_iterative_reasoning(trained, photo):
    found = relation_heads.load(trained["reasoning"])(photo[0], relations=True)
    assert {"plain", "local1", "global1"} <= found.attention.keys()
    assert sum(found.attention.values()) == pytest.approx(np.ones(len(found)), rel=1e-4)


UNIT = ("MODEL.CONTEXT_BLOCKS.PLUGINS", [{"name": "GloRe", "stages": {"res4": [0]}}])


@pytest.mark.parametrize(
    ("opts", "backbone", "places"),
    [((), "resnet_fpn", (12, 16)), (C4, "resnet", (12, 15))],
    ids=["FPN", "C4"],
)
def test_nodes_lie_on_the_image_without_its_padding(opts, backbone, places):
    """FPN pads to a multiple of 32 pixels, C4 to the larger of the images."""
    name = f"build_context_{backbone}_backbone"
    model = build(*opts, *UNIT, "MODEL.BACKBONE.NAME", name).eval()
    cfg = relation_heads.get_cfg()
    cfg.INPUT.MIN_SIZE_TEST = 0  # images keep their size
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    predictor = Predictor(model, cfg, [f"class{k}" for k in range(NUM_CLASSES)])
    rng = np.random.default_rng(0)
    wide, high = (rng.integers(0, 256, (*size, 3), np.uint8) for size in ((70, 230), (190, 90)))
    with watch(model) as seen:
        found = predictor([wide, high], nodes=True)
    assert [entry.maps.shape[2:] for entry in seen.gathered] == [places]
    ((name, maps),) = found[0].nodes.items()
    assert isinstance(dict(model.named_modules())[name], GloRe)
    assert maps.shape[1:] == (5, 15) and maps.dtype == np.float32  # a place is 16 pixels
    assert found[1].nodes[name].shape[1:] == (12, 6)
    (gathered,) = seen.gathered
    for one, place in zip(found, gathered.maps, strict=True):
        height, width = one.nodes[name].shape[1:]
        assert (one.nodes[name] == place[:, :height, :width].numpy()).all()
    assert predictor(wide).nodes == {}


def test_a_model_without_units_has_no_nodes(trained, photo):
    found = relation_heads.load(trained["stock"])(photo[0], nodes=True)
    assert found.nodes == {} and len(found) > 0


def test_results_in_coco_format(trained, photo):
    found = relation_heads.load(trained["stock"])(photo[0])
    rows = found.to_coco(7, category_ids=[10, 20, 30])
    assert len(rows) == len(found)
    for row, box, score, k in zip(rows, found.boxes, found.scores, found.classes, strict=True):
        assert row["image_id"] == 7 and row["category_id"] == 10 * (k + 1)
        x, y, w, h = row["bbox"]
        assert [x, y, x + w, y + h] == pytest.approx(box.tolist()) and row["score"] == score
    assert found.to_coco()[0]["category_id"] == found.classes[0]


def test_pictures(trained, photo, tmp_path):
    found = relation_heads.load(trained["sgrn"])(photo[0], relations=True)
    path = found.save(tmp_path / "new" / "found.jpg", min_score=0.0)
    assert cv2.imread(str(path)).shape[0] == 640
    assert found.picture_of_relations(0).shape[1] > 2 * 1000
    for bad in (tmp_path / "found.nothing", "/proc/found.png"):
        with pytest.raises(OSError, match="found"):
            found.save(bad)


def test_half_precision_finds_the_same(trained, photo):
    whole, half = (
        relation_heads.load(trained["relation"], half=h)(photo[0]) for h in (False, True)
    )
    assert half.scores.dtype == np.float32
    assert half.scores[0] == pytest.approx(whole.scores[0], rel=0.1)
    assert (half.scores[0] != whole.scores[0]) and len(half) > 0


def test_weights_of_a_config(trained, photo, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(relation_heads.load(trained["sgrn"]).cfg.dump())
    plain = tmp_path / "plain.pth"
    torch.save({"model": torch.load(trained["sgrn"], weights_only=True)["model"]}, plain)
    with pytest.raises(ValueError, match=r"plain\.pth has no config inside"):
        relation_heads.load(plain)
    predictor = relation_heads.load(config, weights=plain, class_names=["a", "b", "c"])
    assert set(predictor(photo[0]).names) <= {"a", "b", "c"}
    # The names inside a checkpoint are found by a config, too; without any they are numbers.
    assert (
        relation_heads.load(
            config, weights=trained["stock"].parent.parent / "sgrn" / "model_final.pth"
        ).class_names[0]
        == "class0"
    )
    assert relation_heads.load(config, weights=plain).class_names[0] == "class 0"
    opts = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0]
    assert len(relation_heads.load(trained["sgrn"], opts=opts)(photo[0])) == 0


def bad_file(tmp_path, content):
    path = tmp_path / "bad.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


class Code:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not a checkpoint", "bad.pth is not a checkpoint that can be read safely"),
        ({"model": {}, "mine": Code()}, "bad.pth is not a checkpoint that can be read safely"),
        ({"model": {}, "config": "MODEL: {NO_SUCH_KEY: 1}"}, "bad.pth is not one of this version"),
        ({"model": {}, "config": "a: [b"}, "bad.pth is not one of this version"),
        ({"model": {}}, "bad.pth has no config inside"),
        ([1], "bad.pth has no config inside"),
    ],
)
def test_a_checkpoint_that_is_none(tmp_path, capsys, content, says):
    with pytest.raises(ValueError, match=says):
        relation_heads.load(bad_file(tmp_path, content))
    assert "code ran" not in capsys.readouterr().out


def test_a_checkpoint_in_the_format_of_before_torch_1_6(tmp_path, trained):
    content = torch.load(trained["stock"], weights_only=True)
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    old, new = (relation_heads.load(path) for path in (tmp_path / "old.pth", trained["stock"]))
    assert old.class_names == new.class_names
    for name, tensor in new.model.state_dict().items():
        assert torch.equal(old.model.state_dict()[name], tensor)


def test_other_things_that_are_no_model(tmp_path, trained):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*none\.pth"):
        relation_heads.load(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        relation_heads.load("none.yaml")
    with pytest.raises(FileNotFoundError, match=r"'scenes-relation' .*has scenes-relation-signed"):
        relation_heads.load("scenes-relation")
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS is empty"):
        relation_heads.load("RelationalScenes/faster_rcnn_shallow.yaml")
    with pytest.raises(ValueError, match=r"2 names .*NUM_CLASSES is 3"):
        relation_heads.load(trained["stock"], class_names=["a", "b"])
    with pytest.raises(ValueError, match="META_ARCHITECTURE must be GeneralizedRCNN"):
        Predictor(torch.nn.Identity(), relation_heads.get_cfg(), ["a"])
    stock = relation_heads.load(trained["stock"])
    stock.model.proposal_generator = None
    with pytest.raises(ValueError, match=r"classifies given boxes .*PrecomputedProposals"):
        Predictor(stock.model, stock.cfg, stock.class_names)
    with pytest.raises(ValueError, match="NAME is StandardROIHeads"):
        relation_heads.load(trained["stock"])(np.zeros((9, 9, 3), np.uint8), relations=True)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((3, 9, 9), np.uint8), r"\(3, 9, 9\) uint8"),
        (np.zeros((9, 9, 3)), "float64"),
        (np.zeros((0, 9, 3), np.uint8), r"\(0, 9, 3\)"),
        (np.zeros((4000, 1, 3), np.uint8), "1 x 4000 pixels is too narrow.*MAX_SIZE_TEST"),
        (torch.zeros(9, 9, 3, dtype=torch.uint8), r"\(9, 9, 3\)"),
        (torch.full((3, 9, 9), 200.0), "got 200 to 200"),
        (torch.full((3, 9, 9), torch.nan), "nan"),
        (torch.zeros(3, 9, 9, dtype=torch.int64), "int64"),
        (7, "An array must be"),
    ],
)
def test_what_is_no_image(trained, image, says):
    with pytest.raises(ValueError, match=says):
        relation_heads.load(trained["stock"])(image)


def test_a_file_that_is_no_image(trained, tmp_path):
    predictor = relation_heads.load(trained["stock"])
    (tmp_path / "text.jpg").write_text("no pixels")
    with pytest.raises(OSError, match=r"text\.jpg is not an image"):
        predictor(tmp_path / "text.jpg")
    for missing in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no image"):
            predictor(missing)
