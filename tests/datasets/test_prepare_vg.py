"""The command line of datasets/prepare_vg.py: on hand-written dirt, and on relabelled images."""

from __future__ import annotations

import importlib.util
import io
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relation_heads.data.visual_genome import images as vg
from relation_heads.data.visual_genome.images import published_classes
from tests.data.visual_genome_dirt import (
    BOXES,
    IMAGE_DATA,
    IMAGES_LEFT_OUT,
    MENDED,
    OBJECTS,
    OBJECTS_LEFT_OUT,
    SIZE,
    told,
    tree,
)
from tests.data.visual_genome_fixture import relabel, write_large
from tests.helpers import tiny_coco

SCRIPTS = Path(__file__).parents[2] / "datasets"


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """`main` of the script, in a folder with the dirty Visual Genome."""
    monkeypatch.chdir(tmp_path)
    Path("vg").mkdir()
    Path("vg/image_data.json").write_text(json.dumps(IMAGE_DATA))
    Path("vg/objects.json").write_text(json.dumps(OBJECTS))
    main = load_script("prepare_vg").main

    def run(arguments="", output="out", root="vg", held_out=1):
        common = ["--vg-root", root, "--output", output]
        if "--held-out" not in arguments:
            common += ["--held-out", str(held_out)]
        main([*common, *arguments.split()])
        return Path(output)

    return run


def read(path):
    return json.loads(Path(path).read_text())


def boxes_of(coco):
    """(image id, class name, x, y, width, height) of every annotation."""
    names = {category["id"]: category["name"] for category in coco["categories"]}
    return [(a["image_id"], names[a["category_id"]], *a["bbox"]) for a in coco["annotations"]]


# ---- dirt ----


def test_every_kind_of_dirt_is_mended_or_left_out_and_told(tool, capsys):
    out = tool()
    report = read(out / "vg3000_report.json")
    assert report["images_left_out"] == IMAGES_LEFT_OUT
    assert report["objects_left_out"] == OBJECTS_LEFT_OUT
    assert report["mended"] == MENDED
    assert report["other_synsets"] == {"xylophone.n.99": 2}
    assert report["drawn"] == {"train": 10, "val": 1, "test": 1}
    train = {"images": 4, "of_coco": 1, "annotations": 8, "classes": 3}
    held_out = {"images": 1, "of_coco": 0, "classes": 1}
    assert report["splits"] == {
        "train": train,
        "val": {**held_out, "annotations": 1},
        "test": {**held_out, "annotations": 2},
    }
    assert {k: v for k, v in report["class_counts"].items() if v} == {
        "tree.n.01": 6, "sidewalk.n.01": 1, "street.n.01": 1
    }  # fmt: skip
    printed = capsys.readouterr().out
    for reason in IMAGES_LEFT_OUT | OBJECTS_LEFT_OUT | MENDED:
        assert f"({reason}), first image" in printed
    assert "vg3000_train.json: images 4, of_coco 1, annotations 8, classes 3" in printed
    assert "3000 classes (MODEL.ROI_HEADS.NUM_CLASSES)" in printed


def test_nothing_is_lost_without_a_reason(tool):
    report = read(tool() / "vg3000_report.json")
    left_out = sum(item["count"] for item in report["images_left_out"].values())
    written = sum(split["images"] for split in report["splits"].values())
    assert report["images"] == len(IMAGE_DATA) == written + left_out
    left_out = sum(item["count"] for item in report["objects_left_out"].values())
    written = sum(split["annotations"] for split in report["splits"].values())
    objects = sum(len(item.get("objects", [])) for item in OBJECTS)
    others = report["objects_of_other_synsets"]
    assert report["objects"] == objects == written + left_out + others


def test_the_boxes_of_the_splits(tool):
    out = tool()
    for split, expected in BOXES.items():
        coco = read(out / "annotations" / f"vg3000_{split}.json")
        assert boxes_of(coco) == expected
        assert [a["id"] for a in coco["annotations"]] == list(range(1, len(expected) + 1))
        for a in coco["annotations"]:
            assert a["area"] == a["bbox"][2] * a["bbox"][3] and a["iscrowd"] == 0
        assert [c["name"] for c in coco["categories"]] == published_classes()
        assert [c["id"] for c in coco["categories"]] == list(range(1, 3001))
    images = read(out / "annotations" / "vg3000_train.json")["images"]
    assert images[:3] == [
        {"id": 1, "file_name": "VG_100K/1.jpg", "width": 100, "height": 80},
        {"id": 2, "file_name": "VG_100K_2/2.jpg", "width": 100, "height": 80, "coco_id": 17},
        {"id": 3, "file_name": "VG_100K/2370463.jpg", "width": 100, "height": 80},
    ]
    assert (out / "vg3000_classes.txt").read_text().splitlines() == published_classes()


@pytest.mark.parametrize(
    "file, change, parts",
    [
        ("objects.json", lambda b: b[:-90], ("record 10", "cut off or broken")),
        ("objects.json", lambda b: b[:-1], ("record 10", "end of the file")),
        ("objects.json", lambda b: b.replace(b"oak", b"\xf6ak"), ("record 0", "is not UTF-8")),
        ("objects.json", lambda b: b"{}", ("not a JSON list",)),
        ("objects.json", lambda b: b.replace(b'"image_id": 10,', b""), ("record 6", "'image_id'")),
        ("image_data.json", lambda b: b[:-90], ("record 12", "cut off or broken")),
        ("image_data.json", lambda b: b.replace(b"farm", b"\xff"), ("record 4", "not UTF-8")),
        ("image_data.json", lambda b: b"[]", ("is an empty list",)),
        ("image_data.json", lambda b: b'[{"id": 1}]', ("record 0", "1.2 and later")),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(tool, capsys, file, change, parts):
    path = Path("vg") / file
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(SystemExit) as stopped:
        tool()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1
    assert all(part in error for part in (*parts, file)), error
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ("--held-out 6", ("10 images that are not of COCO", "too few to hold out 6")),
        ("--split random --held-out 6", ("12 images", "too few to hold out 6")),
        ("--vg-root none", ("none/image_data.json: No such file",)),
        ("--vg-root packed", ("packed/image_data.json.zip is: unpack it",)),
        ("--coco-val vg/objects.json", ("vg/objects.json is not in COCO format",)),
        ("--coco-val other.json", ("None of 12 images is one of the 1 of COCO",)),
        ("--check-images none", ("None of 10 images can be read in none",)),
        ("--held-out 0", ("at least 1",)),
        ("--seed 1", ("--seed is for --split random",)),
        ("--split random --coco-val other.json", ("--coco-val is for",)),
        ("--split scene-graph --coco-val other.json", ("--coco-val is for",)),
        ("--split-lists vg --split random", ("--split-lists stands for --split",)),
        ("--split-lists vg", ("vg/train.txt: No such file",)),
        ("--split-lists lists", ("lists/train.txt: none of its 1 images",)),
        ("--split-lists twice", ("image 1 is in train.txt and in test.txt",)),
        ("--held-out 1 2 3", ("one number",)),
        ("--held-out 1 10", ("too few to hold out 1 and 10",)),
        ("--vocabulary vg150", ("vg150 and --aliases belong together",)),
        ("--aliases other.json", ("vg150 and --aliases belong together",)),
        ("--classes other.json", ("--classes is for vg1000 and vg3993",)),
        ("--vocabulary vg3993 --classes bad.txt", ("bad.txt, line 2 must be a class", "'a:x'")),
        ("--vocabulary vg3993 --classes few.txt", ("few.txt has no class with 5 boxes",)),
    ],
)
def test_arguments_that_do_not_fit(tool, capsys, arguments, parts):
    Path("packed").mkdir()
    Path("packed/image_data.json.zip").touch()
    Path("other.json").write_text('{"images": [{"id": 5}]}')
    Path("bad.txt").write_text("b:9\na:x\n")
    Path("few.txt").write_text("b:4\n")
    for folder, lists in {"lists": "train", "twice": "train val test"}.items():
        Path(folder).mkdir()
        for split in lists.split():
            name = {"lists": "9/9", "twice": "VG_100K_2/2" if split == "val" else "VG_100K/1"}
            Path(folder, f"{split}.txt").write_text(f"{name[folder]}.jpg xml/1.xml\n")
    with pytest.raises(SystemExit) as stopped:
        tool(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert all(part in error for part in parts), error
    assert not Path("out").exists()


def test_a_split_without_boxes_is_reported(tool, capsys):
    Path("vg/objects.json").write_text("[]")
    with pytest.raises(SystemExit) as stopped:
        tool()
    assert stopped.value.code == 2
    assert [path.name for path in Path("out").iterdir()] == ["vg3000_report.json"]
    report = read("out/vg3000_report.json")
    assert report["failed"] == "The split train has no box of vg3000."
    assert report["failed"] in capsys.readouterr().err
    left_out = {reason: item["count"] for reason, item in report["images_left_out"].items()}
    assert sum(left_out.values()) == report["images"] == len(IMAGE_DATA)
    assert left_out["no record in objects.json"] > 1
    assert report["splits"] == {}


# ---- options ----


@pytest.mark.parametrize("arguments", ["", "--vocabulary vg1000", "--split random --seed 4"])
def test_the_same_bytes_twice(tool, arguments):
    write_large(Path("large"), 60, 900)
    first = tool(arguments, root="large", held_out=10)
    second = tool(arguments, root="large", held_out=10, output="again")
    files = sorted(path.relative_to(first) for path in first.rglob("*.*"))
    assert len(files) == 5
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_vg1000_counts_the_training_images(tool):
    write_large(Path("large"), 100, 5000)
    out = tool("--vocabulary vg1000", root="large", held_out=15)
    tool("", root="large", held_out=15)
    coco = {s: read(out / "annotations" / f"vg1000_{s}.json") for s in ("train", "val", "test")}
    classes = (out / "vg1000_classes.txt").read_text().splitlines()
    report = read(out / "vg1000_report.json")
    # By hand: all objects with one synset and a box in the image, of the images in no other split.
    ids = {split: {i["id"] for i in coco[split]["images"]} for split in coco}
    counts = {}
    for item in read("large/objects.json"):
        for o in item["objects"]:
            inside = o["w"] > 0 and o["x"] + o["w"] > 0
            if item["image_id"] in ids["train"] and len(o["synsets"]) == 1 and inside:
                counts[o["synsets"][0]] = counts.get(o["synsets"][0], 0) + 1
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    assert len(ranked) > 1000 and classes == ranked[:1000]
    assert report["class_counts"] == {name: counts[name] for name in classes}
    assert all([c["name"] for c in coco[split]["categories"]] == classes for split in coco)
    for split in coco:  # the images of a split are the same for both vocabularies
        of_3000 = read(out / "annotations" / f"vg3000_{split}.json")
        assert {i["id"] for i in of_3000["images"]} == ids[split]


@pytest.mark.parametrize("arguments", ["", "--split random", "--coco-val coco_val.json"])
def test_splits_are_disjoint_and_leak_free(tool, arguments):
    write_large(Path("large"), 80, 800)
    of_coco = {r["image_id"]: r["coco_id"] for r in read("large/image_data.json")}
    chosen = sorted(k for k in of_coco.values() if k is not None)[:7]
    Path("coco_val.json").write_text(json.dumps({"images": [{"id": k} for k in chosen]}))
    out = tool(arguments, root="large", held_out=15)
    ids = {}
    for split in ("train", "val", "test"):
        images = read(out / "annotations" / f"vg3000_{split}.json")["images"]
        ids[split] = {image["id"] for image in images}
        assert all(of_coco[i["id"]] == i.get("coco_id") for i in images)
    assert sum(map(len, ids.values())) == len(set().union(*ids.values())) == 80
    outside = sorted(k for k, coco_id in of_coco.items() if coco_id is None)
    if "random" in arguments:
        assert any(of_coco[k] is not None for k in ids["test"]) and len(ids["val"]) == 15
    else:
        assert ids["test"] == set(outside[-15:])
        coco_val = {k for k, coco_id in of_coco.items() if coco_id in chosen}
        assert ids["val"] == (coco_val if "coco" in arguments else set(outside[-30:-15]))


def test_the_seed_of_the_random_split(tool):
    write_large(Path("large"), 60, 900)
    tests = {}
    for seed in ("", "--seed 0", "--seed 4"):
        out = tool(f"--split random {seed}", root="large", held_out=10)
        tests[seed] = read(out / "annotations" / "vg3000_test.json")["images"]
        assert read(out / "vg3000_report.json")["split"]["seed"] == int(seed[-1:] or 0)
    assert tests[""] == tests["--seed 0"] != tests["--seed 4"]


def test_checked_images(tool):
    for name, size in {"1": SIZE, "2370463": SIZE, "5": (60, 70), "10": SIZE, "31": (20, 25),
                       "32": SIZE, "8": SIZE, "9": SIZE}.items():  # fmt: skip
        Path("vg/VG_100K").mkdir(exist_ok=True)
        Image.new("RGB", size).save(f"vg/VG_100K/{name}.jpg")
    Path("vg/VG_100K/7.jpg").touch()
    report = read(tool("--check-images vg --workers 2") / "vg3000_report.json")
    unsized = {reason: told for reason, told in IMAGES_LEFT_OUT.items() if reason != vg.NO_SIZE}
    assert report["images_left_out"] == {
        **unsized,
        vg.NO_FILE: told(1, "image 2, VG_100K_2/2.jpg"),
        vg.BROKEN_FILE: told(1, "image 7, VG_100K/7.jpg"),
    }
    assert report["mended"][vg.OTHER_SIZE] == told(
        2, "image 5, 60 x 70 instead of 0 x 0", "image 31, 20 x 25 instead of 100 x 80"
    )
    val = read("out/annotations/vg3000_val.json")
    assert (val["images"][0]["width"], val["images"][0]["height"]) == (20, 25)
    assert boxes_of(val) == [(31, "tree.n.01", 10, 10, 10, 15)]  # clipped to the file's size
    assert [i["id"] for i in read("out/annotations/vg3000_train.json")["images"]] == [1, 3, 5]


def test_an_image_is_decoded_again_only_if_it_changed(tool, monkeypatch):
    write_large(Path("large"), 12, 200)
    names = [record["url"].rpartition("rak248/")[2] for record in read("large/image_data.json")]
    for name in names:
        Path("large", name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (800, 600)).save(Path("large", name))
    Path("large", names[0]).write_bytes(b"")
    original, decoded = vg.decoded_size, []

    def noted(path):
        decoded.append(path.relative_to("large").as_posix())
        return original(path)

    monkeypatch.setattr(vg, "decoded_size", noted)

    def run(output="out"):
        decoded.clear()
        return tool("--check-images large", root="large", held_out=2, output=output)

    first = run()
    assert sorted(decoded) == sorted(names)
    report = (first / "vg3000_report.json").read_bytes()
    assert (run() / "vg3000_report.json").read_bytes() == report
    assert decoded == names[:1]  # was left out, may be mended
    Image.new("RGB", (8, 9)).save(Path("large", names[3]))
    changed = run() / "vg3000_report.json"
    assert sorted(decoded) == sorted([names[0], names[3]])
    assert changed.read_bytes() == (run("anew") / "vg3000_report.json").read_bytes() != report


def test_classes_fit_the_knowledge_graph_tool(tool, monkeypatch, capsys):
    triple = {"predicate": "on", "synsets": ["along.r.01"], "relationship_id": 1,
              "subject": tree(1), "object": {**tree(2), "synsets": ["sidewalk.n.01"]}}  # fmt: skip
    out = tool()
    Path("relationships.json").write_text(json.dumps([{"relationships": [triple]}]))
    classes = str(out / "vg3000_classes.txt")
    arguments = ["relationships", "relationships.json", "--classes", classes, "--output", "g.npz"]
    load_script("build_knowledge_graph").main(arguments)
    assert "along.r.01" in capsys.readouterr().out and Path("g.npz").is_file()


# ---- vocabularies of other papers ----


def write_named(images, folder="named"):
    """Images of 90 x 90 whose objects have these names and synsets, in a column of 9 x 9 boxes."""
    records, objects = [], []
    for image_id, of_image in images:
        url = f"https://cs.stanford.edu/people/rak248/VG_100K/{image_id}.jpg"
        size = {"width": 90, "height": 90, "coco_id": None}
        records.append({"image_id": image_id, "url": url, **size})
        of = [
            {
                "object_id": 100 * image_id + k,
                "names": n,
                "synsets": s,
                "x": 0,
                "y": 9 * k,
                "w": 9,
                "h": 9,
            }
            for k, (n, s) in enumerate(of_image)
        ]
        objects.append({"image_id": image_id, "objects": of})
    Path(folder).mkdir()
    Path(folder, "image_data.json").write_text(json.dumps(records))
    Path(folder, "objects.json").write_text(json.dumps(objects))


def found_by_image(out, vocabulary):
    """Image id -> (class, row of the box) over all splits; and the ids of every split."""
    found, ids = {}, {}
    for split in ("train", "val", "test"):
        coco = read(out / "annotations" / f"{vocabulary}_{split}.json")
        ids[split] = [image["id"] for image in coco["images"]]
        for image_id, name, _, y, _, _ in boxes_of(coco):
            found.setdefault(image_id, []).append((name, y // 9))
    return found, ids


def test_vg150(tool):
    names = [["Trees "], ["of railing"], ["thing", "man."], ["T-shirt"], ["mens"], ["wo-man"], []]
    others = [(k, [(["dog"], [])]) for k in (50, 4616, 30, 1592, 20, 10, 40, 60, 70, 80, 90)]
    write_named([(1, [(n, []) for n in names]), *others])
    Path("alias.txt").write_text("tree,trees\nrailing,railings,of railing\nmen,mens\nx,t-shirt\n")
    out = tool("--vocabulary vg150 --aliases alias.txt --split scene-graph", "out", "named", 2)
    found, ids = found_by_image(out, "vg150")
    assert found.pop(1) == [("tree", 0), ("railing", 1), ("man", 2), ("men", 4), ("woman", 5)]
    assert set(map(tuple, found.values())) == {(("dog", 0),)}
    # 7 of the 10 images that are not left out, as they stand in the file.
    assert ids == {"val": [1, 50], "train": [10, 20, 30, 40, 60], "test": [70, 80, 90]}
    report = read(out / "vg150_report.json")
    assert report["images_left_out"]["in no split"]["count"] == 2
    assert report["published_aliases"] is False and report["num_classes"] == 150
    assert report["other_synsets"] == {"tshirt": 1}
    classes = (out / "vg150_classes.txt").read_text().splitlines()
    assert classes == sorted(classes) and len(set(classes)) == 150


def test_vg1600(tool):
    names = [["Red  car."], ["StopSign"], ["large red"], ["zzz", "man"], ["old man"], ["t shirt"]]
    write_named([(1, [(n, []) for n in names]), *((k, [(["man"], [])]) for k in (2, 3, 4))])
    Path("lists").mkdir()
    for split, ids in {"train": (1, 9), "val": (3,), "test": (2,)}.items():
        lines = "".join(f"VG_100K/{k}.jpg xml/{k}.xml\n" for k in ids)
        Path("lists", f"{split}.txt").write_text(lines)
    out = tool("--vocabulary vg1600 --split-lists lists", root="named")
    found, ids = found_by_image(out, "vg1600")
    assert found[1] == [("car", 0), ("stop sign", 1), ("tshirt", 5)]
    assert ids == {"train": [1], "val": [3], "test": [2]}
    report = read(out / "vg1600_report.json")
    assert report["images_left_out"]["in no split"]["count"] == 1
    assert report["other_synsets"] == {"old man": 1, "red": 1, "zzz": 1}
    assert report["num_classes"] == len(set(report["class_counts"])) == 1600


def test_vg3993(tool):
    synsets = [["a.n.01", "b.n.01"], ["a.n.01"], [], ["b.n.01", "b.n.01"], ["c.n.01"]]
    write_named([(k, [(["x"], s) for s in synsets]) for k in range(1, 9)])
    out = tool("--vocabulary vg3993 --split random --held-out 1 2", root="named")
    found, ids = found_by_image(out, "vg3993")
    boxes = [("a.n.01", 0), ("b.n.01", 0), ("a.n.01", 1), ("b.n.01", 3), ("c.n.01", 4)]
    assert found == dict.fromkeys(range(1, 9), boxes)
    assert [len(ids[split]) for split in ("train", "val", "test")] == [5, 2, 1]
    report = read(out / "vg3993_report.json")
    assert report["class_counts"] == {"a.n.01": 10, "b.n.01": 10, "c.n.01": 5}
    assert report["objects"] == 8 * 7  # of five, two have two synsets
    assert report["objects_left_out"]["box and synset of an earlier box of the image"]["count"] == 8

    fewer = tool("--vocabulary vg3993 --split random --held-out 1 3", "fewer", "named")
    assert list(read(fewer / "vg3993_report.json")["class_counts"]) == ["a.n.01", "b.n.01"]
    Path("classes.txt").write_text("c.n.01:5\nb.n.01:4\na.n.01:99\n")
    listed = tool("--vocabulary vg3993 --split random --classes classes.txt", "listed", "named")
    report = read(listed / "vg3993_report.json")
    assert list(report["class_counts"]) == ["c.n.01", "a.n.01"]
    assert report["classes_from"] == "classes.txt"


def test_the_papers_numbers_of_images():
    script = load_script("prepare_vg")
    common = ["--vg-root", "vg", "--output", "out"]
    assert script.parse_args([*common, "--vocabulary", "vg3993"]).held_out == [4000, 4077]
    assert script.parse_args(common).held_out == [5000, 5000]
    photos = {k: vg.Photo(k, f"{k}.jpg", 1, 1, None, "", k) for k in range(1, 108_078)}
    splits = vg.split_images(photos, "scene-graph", 5000)
    assert {split: len(ids) for split, ids in splits.items()} == {
        "train": 70_651, "val": 5000, "test": 32_422,
    }  # fmt: skip
    assert max(splits["train"] | splits["val"]) < min(splits["test"])


# ---- real images ----


def test_relabelled_images_load_in_detectron2(tool, tmp_path):
    pytest.importorskip("detectron2")
    from detectron2.data.datasets import load_coco_json
    from detectron2.data.detection_utils import check_image_size, read_image

    from relation_heads.data.checks.format import coco_findings

    coco = tiny_coco(tmp_path / "tiny", num_images=8)
    synsets = dict(zip(coco.class_names, published_classes()[100:103], strict=True))
    relabel(coco.json_file, coco.image_root, Path("raw"), synsets=synsets, num_of_coco=3)
    out = tool("--check-images raw", root="raw", held_out=2)
    report = read(out / "vg3000_report.json")
    assert not report["images_left_out"] | report["objects_left_out"] | report["mended"]
    numbers = {name: split["images"] for name, split in report["splits"].items()}
    assert numbers == {"train": 4, "val": 2, "test": 2}
    names = {c["id"]: c["name"] for c in coco.dataset["categories"]}
    found = []
    for split in numbers:
        file = out / "annotations" / f"vg3000_{split}.json"
        assert not [f for f in coco_findings(read(file)) if f.level == "problem"]
        records = load_coco_json(str(file), "raw", f"test_{split}")
        for item in records:
            check_image_size(item, read_image(item["file_name"]))
            for a in item["annotations"]:
                found.append((item["image_id"], 1 + a["category_id"], *a["bbox"]))
    order = sorted(i["id"] for i in coco.dataset["images"])
    classes = published_classes()
    expected = [
        (1 + order.index(a["image_id"]),
         1 + classes.index(synsets[names[a["category_id"]]]), *map(round, a["bbox"]))
        for a in coco.dataset["annotations"]
    ]  # fmt: skip
    assert sorted(found) == sorted(expected)


def test_relabelling_by_hand(tmp_path, monkeypatch):
    coco = tiny_coco(tmp_path / "tiny", num_images=2)
    dataset = dict(coco.dataset)
    for category, name in zip(dataset["categories"], ("person", "teddy bear", "tv"), strict=True):
        category["name"] = name
    coco.json_file.write_text(json.dumps(dataset))
    arguments = ["--coco", str(coco.json_file), "--images", str(coco.image_root), "--output", "raw"]
    monkeypatch.setattr(sys, "argv", ["fixture", *arguments])
    monkeypatch.chdir(tmp_path)
    script = Path(__file__).parents[1] / "data" / "visual_genome_fixture.py"
    runpy.run_path(str(script), run_name="__main__")
    synsets = {s for r in read("raw/objects.json") for o in r["objects"] for s in o["synsets"]}
    assert synsets == {"person.n.01", "teddy.n.01", "television.n.01"}
    assert {r["url"][-14:] for r in read("raw/image_data.json")} == {
        "8/VG_100K/1.jpg"[-14:], "VG_100K_2/2.jpg"[-14:]
    }  # fmt: skip
    pixels = [np.asarray(Image.open(f"raw/VG_100K{k}.jpg")) for k in ("/1", "_2/2")]
    assert all(p.shape == (64, 96, 3) for p in pixels)


# ---- names that are no text for a terminal or a line ----


@pytest.mark.parametrize("name", ["caf\u00e9", "\ud800", "\u6728"])
def test_what_is_only_printed_ends_nothing(tool, monkeypatch, name):
    """The examples in what is printed have names of objects; here stdout knows ASCII alone."""
    item = {"object_id": 1, "x": 0, "y": 0, "w": 0, "h": 9, "names": [name], "synsets": ["a.n.01"]}
    objects = [{**record, "objects": [item, *record.get("objects", [])]} for record in OBJECTS]
    Path("vg/objects.json").write_text(json.dumps(objects))
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    out = tool()
    assert (out / "vg3000_report.json").is_file()
    stdout.flush()
    printed = stdout.buffer.getvalue().decode("ascii")
    assert name.encode("ascii", "backslashreplace").decode() in printed


@pytest.mark.parametrize("synset", ["a\nb.n.01", "tree.n.01\r", "a\u2028b", "\udc80"])
def test_a_synset_that_is_not_a_line_is_left_out(tool, synset):
    item = {"object_id": 1, "x": 0, "y": 0, "w": 9, "h": 9, "names": ["a"], "synsets": [synset]}
    [first, *others] = [dict(record) for record in OBJECTS]
    first["objects"] = [item, *first["objects"]]
    Path("vg/objects.json").write_text(json.dumps([first, *others]))
    out = tool("--vocabulary vg1000")
    report = read(out / "vg1000_report.json")
    reason = "synset or name with a line break or half a character"
    assert report["objects_left_out"][reason]["count"] == 1
    classes = (out / "vg1000_classes.txt").read_text(encoding="utf-8").split("\n")
    assert classes == [*report["class_counts"], ""]


@pytest.mark.parametrize(
    "other, what",
    [
        ("objects.json.gz", "unpack it first"),
        ("objects.json.zip", "unpack it first"),
        ("objects_v1_2.json.zip", "unpack it first"),
        ("objects_v1_2.json", "call it objects.json"),
    ],
)
def test_files_that_are_packed_or_called_otherwise(tool, capsys, other, what):
    Path("vg/objects.json").rename(Path("vg") / other)
    with pytest.raises(SystemExit):
        tool()
    assert f"objects.json is not there, but vg/{other} is: {what}." in capsys.readouterr().err
