"""The command line of datasets/prepare_photos.py, on a few small images of each source."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relation_heads.data import photos

SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare_photos.py"
# md5 modulo 3 of the first is 0, of the others 2 and 1.
NAMES = ("2007_000032.jpg", "2007_000027.jpg", "2007_000063.jpg")
BOXES = """\
2007_000027.jpg 174 101 349 351 14
2007_000032.jpg 104 78 375 183 0 133 88 197 123 14
2007_000063.jpg 1 1 20 10 11
2007_009999.jpg 1 1 20 10 11
"""


def prepare(*argv):
    spec = importlib.util.spec_from_file_location("prepare_photos", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main([str(a) for a in argv])


@pytest.fixture
def voc(tmp_path, monkeypatch):
    """Arguments: two folders with images, and the boxes."""
    folders = tmp_path / "one", tmp_path / "two"
    for name, folder in zip(NAMES, (*folders, folders[0]), strict=True):
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (400, 360)).save(folder / name)
    Image.new("RGB", (20, 10)).save(folders[0] / "2007_009999.jpg")  # of VOC, no animal
    (tmp_path / "boxes.txt").write_text(BOXES)
    (tmp_path / "names.txt").write_text("".join(f"{name[:-4]}\n" for name in sorted(NAMES)))
    monkeypatch.setattr(photos, "VOC_NAMES", tmp_path / "names.txt")
    return ["--voc", *folders, "--voc-boxes", tmp_path / "boxes.txt"]


@pytest.fixture
def camvid(tmp_path, monkeypatch):
    """Arguments: a folder with one frame and mask a split."""
    root = tmp_path / "CamVid"
    mask = np.full((40, 60), 11, np.uint8)  # unlabelled
    mask[5:15, 10:20] = 0  # Sky, 100 pixels
    mask[15:25, 20:30] = 0  # touches it by a corner
    mask[0:9, 40:51] = 8  # Car, 99 pixels
    mask[30:40, 0:12] = 8
    for split in ("train", "val", "test"):
        for folder, image in ((split, mask * 9), (f"{split}annot", mask)):
            (root / folder).mkdir(parents=True)
            Image.fromarray(image).save(root / folder / f"{split}_1.png")
    counts = {f"camvid_{s}": (1, 2) for s in ("train", "val")} | {"camvid_test": (1, 3)}
    monkeypatch.setattr(photos, "COUNTS", photos.COUNTS | counts)
    return ["--camvid", root]


@pytest.fixture
def vg(tmp_path, monkeypatch):
    """Arguments: a folder with seven images, 100 x 80, ids 2, 4, 9, 10, 11, 12, 13, and objects."""
    root = tmp_path / "VG"
    (root / "VG_500").mkdir(parents=True)
    ids = 2, 4, 9, 10, 11, 12, 13
    for k in ids:
        Image.new("RGB", (100, 80)).save(root / "VG_500" / f"{k}.jpg")

    def an_object(number, *names, box=(1, 2, 30, 40)):
        x, y, w, h = box
        return {"object_id": number, "names": list(names), "synsets": [],
                "x": x, "y": y, "w": w, "h": h}  # fmt: skip

    objects = {
        2: [an_object(1, "man"), an_object(2, "tree", box=(90, -5, 20, 25)), an_object(3, "sign")],
        4: [
            an_object(4, "tree"),
            an_object(5, "man", "boy"),
            an_object(6, "man", box=(0, 0, 9, 0)),
        ],
        9: [an_object(7, "dog"), an_object(8, "dog", box=(5, 5, 5, 5)), an_object(9, "man")],
        10: [an_object(10, "bag"), an_object(11, "tree")],
        11: [],
        12: [an_object(12, "dog"), an_object(13, "tree")],
        13: [an_object(14, "bag"), an_object(15, "bag", box=(100, 10, 5, 5))],
    }
    records = [{"image_id": k, "objects": objects[k]} for k in reversed(ids)]
    (root / "objects.json").write_text(json.dumps(records))
    counts = {"vg500_train": (5, 4), "vg500_val": (2, 1)}
    monkeypatch.setattr(photos, "COUNTS", photos.COUNTS | counts)
    monkeypatch.setattr(photos, "VG_CLASSES", 2)
    return ["--vg", root]


def read(output, name):
    return json.loads((output / "annotations" / f"{name}.json").read_text())


@pytest.mark.parametrize("copy", [False, True])
def test_voc_animals(voc, tmp_path, capsys, copy):
    output = tmp_path / "photos"
    prepare(*voc, "--output", output, *["--copy"] * copy)
    val, train = (read(output, f"voc_animals_{split}") for split in ("val", "train"))
    assert [i["file_name"] for i in train["images"]] == ["2007_000027.jpg", "2007_000063.jpg"]
    assert val["images"] == [
        {"id": 2007000032, "file_name": "2007_000032.jpg", "width": 400, "height": 360}
    ]
    assert [a["bbox"] for a in val["annotations"]] == [[103, 77, 272, 106], [132, 87, 65, 36]]
    assert [a["category_id"] for a in val["annotations"]] == [1, 15]
    assert [a["image_id"] for a in val["annotations"]] == [2007000032] * 2
    assert [a["id"] for a in train["annotations"] + val["annotations"]] == [1, 4, 2, 3]
    names = {c["id"]: c["name"] for c in train["categories"]}
    assert (len(names), names[1], names[12], names[15]) == (20, "aeroplane", "dog", "person")
    files = sorted((output / "voc").iterdir())
    assert [f.name for f in files] == sorted(NAMES)
    assert all(f.is_symlink() is not copy and Image.open(f).size == (400, 360) for f in files)
    said = capsys.readouterr().out
    assert "2 images, 2 boxes, NOT 2467 and 5283" in said
    prepare(*voc, "--output", output)  # once more: nothing is in the way
    assert read(output, "voc_animals_val") == val


def test_camvid(camvid, tmp_path, capsys):
    output = tmp_path / "photos"
    prepare(*camvid, "--output", output)
    coco = read(output, "camvid_val")
    assert coco["images"] == [{"id": 2, "file_name": "val/val_1.png", "width": 60, "height": 40}]
    found = [(a["category_id"], a["bbox"], a["area"]) for a in coco["annotations"]]
    assert found == [(1, [10, 5, 20, 20], 400), (9, [0, 30, 12, 10], 120)]
    assert [a["id"] for a in coco["annotations"]] == [3, 4]
    assert (output / "camvid" / "val" / "val_1.png").is_file()
    said = capsys.readouterr().out.splitlines()
    assert said[1].endswith("1 images, 2 boxes, as it must be")
    assert said[2].endswith("1 images, 2 boxes, NOT 1 and 3")


def test_vg500(vg, tmp_path, capsys):
    output = tmp_path / "photos"
    prepare(*vg, "--output", output)
    train, val = (read(output, f"vg500_{split}") for split in ("train", "val"))
    # The third and the sixth are val. In train: tree 3, bag 2, man 1, sign 1; the first bag of 13.
    assert [i["id"] for i in train["images"]] == [2, 4, 10, 11, 13]
    assert [i["file_name"] for i in val["images"]] == ["9.jpg", "12.jpg"]
    assert [(c["id"], c["name"]) for c in val["categories"]] == [(1, "tree"), (2, "bag")]
    found = [(a["image_id"], a["category_id"], a["bbox"]) for a in train["annotations"]]
    whole = [1, 2, 30, 40]
    assert found == [
        (2, 1, [90, 0, 10, 20]),  # clipped
        (4, 1, whole),
        (10, 2, whole),
        (10, 1, whole),
        (13, 2, whole),
    ]
    assert [(a["image_id"], a["category_id"]) for a in val["annotations"]] == [(12, 1)]
    assert (output / "vg500_classes.txt").read_text() == "tree\nbag\n"
    assert sorted(f.name for f in (output / "vg500").iterdir())[:2] == ["10.jpg", "11.jpg"]
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("5 images, 5 boxes, NOT 5 and 4")
    assert said[1].endswith("2 images, 1 boxes, as it must be")


def test_too_few_names_for_the_classes_of_vg500(vg, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(photos, "VG_CLASSES", 5)
    with pytest.raises(SystemExit):
        prepare(*vg, "--output", tmp_path / "photos")
    sentence = r"objects.json: the training split has 4 names of objects, fewer than the 5 classes"
    assert re.search(sentence, capsys.readouterr().err)
    assert not (tmp_path / "photos").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda root: (root / "VG_500" / "9.jpg").unlink(), "VG_500 must have the 7 images .* 6"),
        (lambda root: (root / "VG_500" / "9.jpg").write_text("?"), "9.jpg: file cannot be decoded"),
        (lambda root: (root / "objects.json").write_text("[]"), "7 of 7 lists of objects are not"),
        (lambda root: (root / "objects.json").unlink(), "objects.json: No such file"),
    ],
)
def test_what_is_wrong_with_the_folder_of_vg500(vg, tmp_path, capsys, change, sentence):
    change(tmp_path / "VG")
    with pytest.raises(SystemExit) as error:
        prepare(*vg, "--output", tmp_path / "photos")
    message = capsys.readouterr().err
    assert error.value.code == 2 and message.count("\n") == 1
    assert re.search(sentence, message), message
    assert not (tmp_path / "photos").exists()


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("two/2007_000027.jpg", "1 of 3 photographs of VOC-animals are not in .*one.*: 2007_0000"),
        ("boxes.txt", "boxes.txt: No such file"),
        ("CamVid/val/val_1.png", "1 of 1 frames of CamVid's val split are not in .*val: val_1.png"),
        ("CamVid/testannot/test_1.png", "testannot must have the 1 masks .* and has 0"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(voc, camvid, tmp_path, capsys, gone, sentence):
    (tmp_path / gone).unlink()
    with pytest.raises(SystemExit) as error:
        prepare(*voc, *camvid, "--output", tmp_path / "photos")
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert re.search(sentence, message), message
    assert not (tmp_path / "photos").exists()


def test_arguments_that_belong_together(capsys):
    for argv, sentence in (
        (["--voc", "x"], "belong together"),
        ([], "nothing to do"),
    ):
        with pytest.raises(SystemExit):
            prepare(*argv, "--output", "y")
        assert sentence in capsys.readouterr().err


def test_the_list_of_voc_animals_splits_as_the_counts_say():
    names = photos.VOC_NAMES.read_text().split()
    splits = [photos.voc_split(f"{name}.jpg") for name in names]
    assert len(set(names)) == 3682
    assert (splits.count("train"), splits.count("val")) == (2467, 1215)
    boxes = [number for _, number in photos.COUNTS.values()]
    assert (sum(boxes[:2]), sum(boxes[2:5]), sum(boxes[5:])) == (7846, 20129, 8904)
