"""Everything that can be wrong or odd in a data set is found, with its level and its offender."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

from relation_heads.data.checks import boxes as dataset_boxes
from relation_heads.data.checks.boxes import near_duplicates
from relation_heads.data.checks.findings import as_text
from relation_heads.data.checks.report import check_dataset, registered_source, source_of_files
from tests.helpers import HEIGHT, WIDTH, registered, tiny_coco, write_json

POLYGON = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0]]
RLE = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}


def two_splits(folder):
    """A training split of four images, and a test split of four others."""
    train, val = tiny_coco(folder / "train"), tiny_coco(folder / "val")
    for path in val.image_root.iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    for image in val.dataset["images"]:
        image["id"] += 100
    for annotation in val.dataset["annotations"]:
        annotation["image_id"] += 100
    return {"train": train, "val": val}


def check(splits, **options):
    """The report, after what the tests changed is written."""
    for coco in splits.values():
        write_json(coco.json_file, coco.dataset)
    sources = [
        source_of_files(name, str(coco.json_file), str(coco.image_root))
        for name, coco in splits.items()
    ]
    return check_dataset(sources, **options)


def the_finding(report, level, *parts):
    """The only finding of this level with all these parts in its text."""
    texts = {as_text([finding]): finding for finding in report.findings}
    matching = [
        finding
        for text, finding in texts.items()
        if finding.level == level and all(part in " ".join(text.split()) for part in parts)
    ]
    assert len(matching) == 1, report.text()
    return matching[0]


def serious(report):
    return [finding for finding in report.findings if finding.level != "fact"]


@pytest.fixture
def splits(tmp_path):
    return two_splits(tmp_path)


def test_a_good_data_set_has_neither_problems_nor_warnings(splits):
    report = check(splits)
    assert serious(report) == []
    assert not report.has_problems
    assert "4 images, 12 annotations (0 crowds), 3 classes" in report.text()
    the_finding(report, "fact", "train", "0 without any, 3 rare (1-10), 0 common")
    assert serious(check({"alone": splits["train"]})) == []


def item(key, k=0, **changes):
    return lambda dataset: dataset[key][k].update(changes)


def every(key, **changes):
    def change(dataset):
        for entry in dataset[key]:
            entry.update(changes)

    return change


def with_polygons(dataset):
    """The mask of every object is its box."""
    for annotation in dataset["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def move_box(by):
    def change(dataset):
        with_polygons(dataset)
        dataset["annotations"][0]["bbox"][0] += by

    return change


def of_two_classes(dataset):
    first, second = dataset["annotations"][:2]
    second.update(bbox=first["bbox"], area=first["area"])


def both(*changes):
    return lambda dataset: [change(dataset) for change in changes]


def as_corners(dataset):
    for annotation in dataset["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]


def repeat(shift):
    """The second annotation becomes a copy of the first, moved to the right."""

    def change(dataset):
        first, second = dataset["annotations"][:2]
        x, y, w, h = first["bbox"]
        box = [x + shift, y, w, h]
        second.update(bbox=box, area=first["area"], category_id=first["category_id"])

    return change


@pytest.mark.parametrize(
    ("change", "level", "parts"),
    [
        # Of the format.
        (item("annotations", id=0), "problem", ["1 annotation with id 0", "not matched"]),
        (item("annotations", image_id=88), "problem", ["image_id", "88", "left out"]),
        (item("annotations", bbox=[1, 2, 3, float("nan")]), "problem", ["four finite numbers"]),
        (item("annotations", bbox=[1, 2, 0, 5]), "warning", ["width or height <= 0"]),
        # Of ids and names.
        (item("images", id="one"), "problem", ["'id' in 'images'", "int, str"]),
        (item("annotations", id="one"), "problem", ["'id' in 'annotations'", "numbers, found"]),
        (item("annotations", image_id=[1]), "problem", ["'image_id' in", "int, list"]),
        (item("categories", name=["a"]), "problem", ["'name' in 'categories'", "texts, found"]),
        (item("images", file_name=7), "problem", ["'file_name' in 'images'"]),
        (item("categories", id=7), "fact", ["not 1 to 3 in this order", "ascending"]),
        (lambda d: d["categories"].reverse(), "fact", ["not 1 to 3 in this order"]),
        # Of boxes in images of 96 x 64.
        (item("annotations", bbox=[96, 1, 9, 9]), "warning", ["1 box entirely out", "[96, 1, 9"]),
        (item("annotations", bbox=[-9, 1, 9, 9]), "warning", ["1 box entirely outside"]),
        (item("annotations", bbox=[90, 1, 9, 9], area=81), "warning", ["1 box bey", "by up to 3"]),
        (item("annotations", bbox=[1, -5, 9, 9], area=81), "warning", ["beyond", "up to 5 pix"]),
        (item("annotations", bbox=[87.5, 1, 9, 9], area=81), "fact", ["by at most 1 pixel"]),
        (item("annotations", bbox=[1, 1, 0.5, 9], area=4.5), "warning", ["1 box less than 1 pi"]),
        (every("annotations", bbox=[0.1, 0.2, 0.3, 0.4]), "problem", ["fractions of the image"]),
        # Of areas and flags.
        (item("annotations", area=1000), "warning", ["1 annotation with an 'area'", "1000 inst"]),
        (item("annotations", area=None), "problem", ["'area' that is not a number >= 0"]),
        (item("annotations", area=-1), "problem", ["'area' that is not a number >= 0"]),
        (item("annotations", ignore=1), "problem", ["1 annotation with 'ignore' set"]),
        (item("annotations", iscrowd=2), "warning", ["neither 0 nor 1", "id 1 with iscrowd 2"]),
        # Of masks.
        (every("annotations", segmentation=[[1, 2, 3]]), "warning", ["12", "three points"]),
        (every("annotations", segmentation="mask"), "problem", ["12", "neither a list of pol"]),
        (every("annotations", segmentation={"size": [1]}), "problem", ["neither a list of pol"]),
        (every("annotations", segmentation=[["a"] * 6]), "problem", ["neither a list of polyg"]),
        (every("annotations", segmentation=[[99, 1, 9, 9, 1, 9]]), "warning", ["points more tha"]),
        (every("annotations", segmentation=[[9, 1, 9, 66, 1, 9]]), "warning", ["points more tha"]),
        (every("annotations", segmentation=RLE), "fact", ["12", "bitmask"]),
        (
            every("annotations", segmentation={**RLE, "size": [WIDTH, HEIGHT]}),
            "problem",
            ["12", "another size than [height, width]"],
        ),
        (
            both(every("annotations", segmentation=POLYGON), item("annotations", segmentation=[])),
            "warning",
            ["1 annotation without 'segmentation'"],
        ),
        (every("annotations", segmentation=[[9, 1, 9, float("nan"), 1, 9]]), "problem", ["12"]),
        (every("annotations", segmentation={**RLE, "size": 9}), "problem", ["12", "another size"]),
        (every("annotations", segmentation={**RLE, "counts": [9]}), "problem", ["12", "add up"]),
        (every("annotations", segmentation={**RLE, "counts": "a c"}), "problem", ["12", "add up"]),
        (
            every("annotations", segmentation={**RLE, "counts": [HEIGHT * WIDTH]}),
            "warning",
            ["12", "run lengths without a pixel"],
        ),
        (
            every("annotations", segmentation=[*POLYGON, [1, 2, 3]]),
            "warning",
            ["12", "odd number of coordinates", "leaves such a polygon out"],
        ),
        (move_box(3), "warning", ["1 annotation whose box is not that of its mask", "by 3"]),
        # Of two classes.
        (of_two_classes, "warning", ["1 box given again with another", "is 'class0' and 'class1'"]),
        # Of copies.
        (repeat(0), "warning", ["1 annotation given again", "annotation 2 ["]),
        (repeat(0.25), "warning", ["1 annotation nearly given again", "annotation 2 ["]),
        # Of images.
        (item("images", 1, file_name="000001.png"), "problem", ["more than once", "images 1, 2"]),
        (item("images", file_name="a.png"), "problem", ["1 image file missing", "image 1: "]),
        (item("images", file_name="a.png"), "fact", ["1 image file in the folders", "000001.png"]),
        (item("images", file_name="a/000001.PNG"), "problem", ["missing", "there is", "000001.p"]),
        (item("images", file_name="../a.png"), "warning", ["1 image whose", "leads out", "../a.p"]),
        (item("images", file_name="/a.png"), "warning", ["1 image whose", "leads out", "1: /a.p"]),
        (item("images", width=97), "problem", ["97 x 64 in the JSON file, 96 x 64", "SizeMism"]),
        (every("annotations", iscrowd=1), "problem", ["no image has an object", "No valid data"]),
    ],
)
def test_every_oddity_is_found(splits, change, level, parts):
    change(splits["train"].dataset)
    assert the_finding(check(splits), level, *parts).dataset.startswith("train")


def test_corners_are_recognised_and_small_boxes_near_the_origin_are_not(splits):
    annotations = splits["train"].dataset["annotations"]
    del annotations[:]
    for k in range(10):
        box = [5 + k, 5 + k, 15 + 8 * k, 6 + 5 * k]  # right in the image, if these are corners
        annotations.append({"id": k + 1, "image_id": 1, "category_id": 1, "bbox": box})
        annotations[-1].update(area=box[2] * box[3], iscrowd=0)
    finding = the_finding(check(splits), "problem", "look like corners")
    assert finding.what.startswith("all 10 boxes")
    for annotation in annotations:
        annotation["bbox"][2:] = [16, 16]
    assert not check(splits).has_problems


def test_a_finding_is_made_once(splits):
    annotations = splits["train"].dataset["annotations"]
    repeat(0)(splits["train"].dataset)
    annotations[3]["bbox"] = [1, 2, 3, float("inf")]
    first, second = serious(check(splits))
    assert "four finite numbers" in first.what
    assert "given again" in second.what


def test_masks_of_crowds_may_be_run_lengths(splits):
    with_polygons(splits["train"].dataset)
    crowd = {"segmentation": RLE, "bbox": [0, 0, WIDTH, HEIGHT], "area": WIDTH * HEIGHT}
    item("annotations", **crowd, iscrowd=1)(splits["train"].dataset)
    report = check(splits)
    assert serious(report) == []
    assert "bitmask" not in report.text()


@pytest.mark.parametrize("by", [1.9, -1.9])
def test_a_box_may_be_rounded(splits, by):
    move_box(by)(splits["train"].dataset)
    assert serious(check(splits)) == []


def test_an_absolute_path_below_the_folder_is_in_order(splits):
    coco = splits["train"]
    inside = str(coco.image_root.resolve() / "x" / ".." / "000001.png")
    (coco.image_root / "x").mkdir()
    item("images", file_name=inside)(coco.dataset)
    assert serious(check(splits)) == []


@pytest.mark.parametrize("seed", range(3))
def test_boxes_of_two_classes_equal_a_slow_reference(splits, seed):
    rng = np.random.default_rng(seed)
    annotations = splits["train"].dataset["annotations"]
    del annotations[:]
    for k in range(60):
        box = [int(v) for v in (*rng.integers(0, 2, 2), *rng.integers(9, 11, 2))]
        of = {"image_id": int(rng.integers(1, 3)), "category_id": int(rng.integers(1, 4))}
        area, crowd = box[2] * box[3], int(rng.integers(0, 4) == 0)
        annotations.append({"id": k + 1, **of, "bbox": box, "area": area, "iscrowd": crowd})
    classes = {}  # image and box -> classes
    for a in annotations:
        if not a["iscrowd"]:
            classes.setdefault((a["image_id"], *a["bbox"]), set()).add(a["category_id"])
    expected = sum(len(of_box) - 1 for of_box in classes.values())
    assert expected > 5
    the_finding(check(splits), "warning", f"{expected} boxes given again with another class")


def test_crowds_and_images_without_objects_are_counted(splits):
    for annotation in splits["train"].dataset["annotations"]:
        annotation["iscrowd"] = int(annotation["image_id"] == 2)
    report = check(splits)
    assert the_finding(report, "fact", "1 image without an object").examples == (
        "image 2 (000002.png)",
    )
    assert "4 images, 12 annotations (3 crowds)" in report.text()
    assert report.splits[0].class_objects.tolist() == [3, 3, 3]


def test_counts_equal_a_slow_reference(tmp_path):
    coco = tiny_coco(tmp_path, num_classes=2, num_images=7, category_ids=(9, 4))
    split = check({"a": coco}).splits[0]
    annotations = coco.dataset["annotations"]
    for k, category_id in enumerate(split.category_ids):
        of_class = [a["image_id"] for a in annotations if a["category_id"] == category_id]
        assert split.class_objects[k] == len(of_class)
        assert split.class_images[k] == len(set(of_class))
        names = {c["id"]: c["name"] for c in coco.dataset["categories"]}
        assert split.classes[k] == names[category_id]


def slow_near_duplicates(group, boxes, iou):
    """Of every pair with this IoU, the one that is further right, or later where both are equal."""
    places = set()
    for i in range(len(boxes)):
        for j in range(i):
            (ax, ay, aw, ah), (bx, by, bw, bh) = boxes[i], boxes[j]
            common = max(min(ax + aw, bx + bw) - max(ax, bx), 0)
            common *= max(min(ay + ah, by + bh) - max(ay, by), 0)
            if group[i] == group[j] and common / (aw * ah + bw * bh - common) >= iou:
                places.add(i if ax >= bx else j)
    return sorted(places)


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_equal_a_slow_reference(seed, monkeypatch):
    monkeypatch.setattr(dataset_boxes, "NEAR_IOU", 0.6)  # so that there are many
    rng = np.random.default_rng(seed)
    boxes = np.hstack([rng.uniform(0, 20, (150, 2)), rng.uniform(10, 30, (150, 2))])
    boxes[:20, 0] = boxes[0, 0]
    group = rng.integers(0, 3, 150)
    expected = slow_near_duplicates(group, boxes, 0.6)
    assert len(expected) > 20
    assert near_duplicates(group, boxes).tolist() == expected
    assert near_duplicates(group[:0], boxes[:0]).tolist() == []


def test_registered_data_sets(splits):
    coco = splits["train"]
    with registered(coco) as name:
        assert serious(check_dataset([registered_source(name)])) == []
        with pytest.raises(ValueError, match=r"not registered; did you mean .*tiny_"):
            registered_source(name[:-1])
        coco.dataset["categories"][0]["name"] = "kite"
        write_json(coco.json_file, coco.dataset)
        report = check_dataset([registered_source(name)])
        the_finding(report, "problem", "not the classes of the data set")
        coco.json_file.unlink()
        with pytest.raises(FileNotFoundError, match=r"annotations\.json"):
            registered_source(name)
    with pytest.raises(ValueError, match="not as one in COCO format"):
        registered_source("voc_2007_train")


def test_the_report_is_in_order_and_fits_in_json(splits):
    annotations = splits["train"].dataset["annotations"]
    annotations[0].update(id=0, bbox=[1, 1, 0.5, 9])
    report = check(splits)
    text = report.text()
    places = [text.index(part) for part in ("PROBLEMS (", "WARNINGS (", "FACTS (", "1 problem, 2 ")]
    assert places == sorted(places)
    assert max(map(len, text.splitlines()[6:])) <= 100
    content = json.loads(json.dumps(report.as_dict()))
    assert {finding["level"] for finding in content["findings"]} == {"problem", "warning", "fact"}
    assert content["splits"][0]["classes"][1] == {
        "id": 2, "name": "class1", "images": 4, "objects": 4,
    }  # fmt: skip
