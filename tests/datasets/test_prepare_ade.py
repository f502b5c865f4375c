"""The command line of datasets/prepare_ade.py, on a release of each kind with a few images."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relation_heads.data import ade20k

DAMAGED = "a file is damaged, or a mask is missing or of another size"
SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare_ade.py"
HEIGHT, WIDTH = 10, 20
# Name, level and inclusive columns and rows x1, y1, x2, y2 of every region, by image.
IMAGES = {
    "training/street/ADE_train_1": [
        ("tree", 0, (0, 0, 4, 9)),
        ("trees", 0, (6, 0, 11, 4)),
        ("wheel", 1, (1, 1, 2, 3)),
        ("thing", 0, (15, 5, 15, 5)),
    ],
    "training/street/ADE_train_2": [("tree", 0, (3, 3, 6, 6)), ("left arm", 0, (8, 0, 9, 9))],
    "validation/h/ADE_val_1": [("bus", 0, (2, 2, 8, 8)), ("right arm", 0, (10, 1, 12, 3))],
    "validation/h/ADE_val_2": [("thing", 0, (0, 0, 19, 9))],
}
COUNTS = {"-": 9, "tree": 3, "wheel": 5, "thing": 4, "left arm": 5, "right arm": 5, "trees": 5}


def write_release(root, year):
    """A release of 2016 or 2021 with these images."""
    for stem, regions in IMAGES.items():
        path = root / "images" / f"{stem}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(path)
        (write_2016 if year == 2016 else write_2021)(path, regions)


def filled(box, value, start=None):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8) if start is None else start
    x1, y1, x2, y2 = box
    mask[y1 : y2 + 1, x1 : x2 + 1] = value
    return mask


def write_2021(path, regions):
    objects = []
    (path.parent / path.stem).mkdir()
    for k, (name, level, box) in enumerate(reversed(regions)):
        mask = f"{path.stem}/instance_{k:03d}_{path.stem}.png"
        Image.fromarray(filled(box, 255)).save(path.parent / mask)
        objects.append({"raw_name": name, "parts": {"part_level": level}, "instance_mask": mask})
    path.with_suffix(".json").write_text(json.dumps({"annotation": {"object": objects}}))


def write_2016(path, regions):
    lines = []
    for level in (0, 1):
        seg = np.zeros((HEIGHT, WIDTH), np.uint8)
        of_level = [region for region in regions if region[1] == level]
        for number, (name, _, box) in enumerate(of_level, start=1):
            filled(box, number * 20, seg)
            lines.append(f'{number:03d} # {level} # 0 # class # {name} # ""\n')
        suffix = "parts_1" if level else "seg"
        blue = np.dstack([np.zeros_like(seg), np.zeros_like(seg), seg])
        Image.fromarray(blue).save(path.with_name(f"{path.stem}_{suffix}.png"))
    path.with_name(f"{path.stem}_atr.txt").write_text("".join(lines))


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """`main` of the script, in a folder with both releases and the other inputs."""
    spec = importlib.util.spec_from_file_location("prepare_ade", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    for year in (2016, 2021):
        write_release(Path(str(year)), year)
    Path("names.txt").write_text("".join(f"{name} \n" for name in COUNTS))
    Path("counts.txt").write_text("".join(f"{count}\n" for count in COUNTS.values()))
    Path("mval.txt").write_text("images/validation/other/ADE_val_2.jpg\nx/ADE_val_9.jpg\n")
    Path("vg.txt").write_text("tree.n.01\ntree.n.03\nbus.n.01\nWheel\nright arm\n")

    def run(arguments, year=2021, output="out"):
        module.main(["--ade-root", str(year), "--output", output, *arguments.split()])
        return Path(output)

    return run


REASONING = "--labels reasoning --names names.txt --counts counts.txt"


def read(path):
    return json.loads(path.read_text())


def regions_of(coco):
    """(class name, level, inclusive box, area) by file name without its ending, sorted."""
    names = {category["id"]: category["name"] for category in coco["categories"]}
    found = {image["id"]: [] for image in coco["images"]}
    for a in coco["annotations"]:
        x, y, w, h = a["bbox"]
        box = (x, y, x + w - 1, y + h - 1)
        found[a["image_id"]].append((names[a["category_id"]], a["part_level"], box, a["area"]))
    files = {image["id"]: image["file_name"] for image in coco["images"]}
    return {files[i][len("images/") : -len(".jpg")]: sorted(r) for i, r in found.items()}


def expected(split, label):
    """`regions_of` by hand; `label` gives the class of a raw name, or None."""
    return {
        stem: sorted(
            (label(name), level, box, (box[2] - box[0] + 1) * (box[3] - box[1] + 1))
            for name, level, box in regions
            if label(name)
        )
        for stem, regions in IMAGES.items()
        if stem.startswith(split)
    }


@pytest.mark.parametrize("year", [2016, 2021])
def test_reasoning_with_published_counts(tool, year):
    out = tool(REASONING, year)
    classes = ["left_arm", "right_arm", "trees", "wheel"]  # each 5 times, so by name
    assert (out / "ade_reasoning_classes.txt").read_text().splitlines() == classes

    def label(name):
        return name.replace(" ", "_") if name.replace(" ", "_") in classes else None

    for split, folder in (("train", "training"), ("val", "validation")):
        coco = read(out / "annotations" / f"ade_reasoning_{split}.json")
        assert [(c["id"], c["name"]) for c in coco["categories"]] == list(enumerate(classes, 1))
        assert regions_of(coco) == expected(folder, label)
        assert {(i["height"], i["width"]) for i in coco["images"]} == {(HEIGHT, WIDTH)}
        assert "other classes" in coco["info"]["description"]
    report = read(out / "ade_reasoning_report.json")
    assert report["splits"]["train"] == {
        "images": 2,
        "images_without_boxes": 0,
        "annotations": 3,
        "objects": 2,
        "parts": 1,
        "dropped": {"name is not a class": 3},
        "outlines_from_polygons": 0,
    }
    assert report["names_left_out"] == {"thing": 2, "tree": 2, "bus": 1}
    assert report["hflip_pairs"] == [["left_arm", "right_arm"]]
    assert report["splits"]["val"]["images_without_boxes"] == 1
    assert (report["counted"], report["num_classes"]) == ("counts.txt", 4)


@pytest.mark.parametrize(
    "min_count, classes", [(1, "tree left_arm thing trees wheel"), (2, "tree")]
)
def test_without_counts_training_images_are_counted(tool, min_count, classes):
    out = tool(f"--labels reasoning --min-count {min_count}")
    report = read(out / "ade_reasoning_report.json")
    assert list(report["class_counts"]) == classes.split()
    assert report["class_counts"]["tree"] == 2 and report["counted"] == "training images"


def test_sgrn_merges_and_keeps_what_visual_genome_has(tool, capsys):
    out = tool("--labels sgrn --vocabulary vg.txt --min-count 1 --workers 1")
    report = read(out / "ade_sgrn_report.json")
    assert report["class_counts"] == {"tree": 3, "wheel": 1}
    assert report["names_lost_by_merging"] == {"bus": 1}  # as "bu", by the published rule
    labels = {"tree": "tree", "trees": "tree", "wheel": "wheel"}
    coco = read(out / "annotations" / "ade_sgrn_train.json")
    assert regions_of(coco) == expected("training", labels.get)
    printed = capsys.readouterr().out
    for text in (report["note"], coco["info"]["description"], printed):
        assert "445 classes of the papers is not published" in text and "may differ" in text
    assert "2 classes" in printed


def test_lists_split_val(tool):
    out = tool(f"{REASONING} --val-lists mval.txt")
    report = read(out / "ade_reasoning_report.json")
    assert report["listed_but_not_in_val"] == {"mval": 1}
    [image] = read(out / "annotations" / "ade_reasoning_mval.json")["images"]
    assert image in read(out / "annotations" / "ade_reasoning_val.json")["images"]
    assert image["file_name"] == "images/validation/h/ADE_val_2.jpg"
    assert report["names_left_out"]["thing"] == 2  # not counted again for the list


def test_the_same_bytes_twice(tool):
    first = tool(f"{REASONING} --val-lists mval.txt --workers 1")
    second = tool(f"{REASONING} --val-lists mval.txt --workers 3", output="again")
    files = sorted(path.relative_to(first) for path in first.rglob("*.*"))
    assert len(files) == 6
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_published_names_and_lists(tool):
    folder = Path("2021/images/validation")
    for ours, theirs in (("ADE_val_1", "ADE_val_00000638"), ("ADE_val_2", "ADE_val_00001409")):
        for file in list(folder.rglob(f"{ours}*")):
            file.rename(file.with_name(file.name.replace(ours, theirs)))
    out = tool("--labels reasoning --published")
    report = read(out / "ade_reasoning_report.json")
    assert (report["num_classes"], report["counted"]) == (1484, "ade_counts.txt")
    assert len((out / "ade_reasoning_classes.txt").read_text().splitlines()) == 1484
    assert report["listed_but_not_in_val"] == {"mval": 999, "mtest": 999}
    for split, name in (("mval", "ADE_val_00000638.jpg"), ("mtest", "ADE_val_00001409.jpg")):
        images = read(out / "annotations" / f"ade_reasoning_{split}.json")["images"]
        assert [Path(image["file_name"]).name for image in images] == [name]
    report = read(tool("--labels sgrn --published") / "ade_sgrn_report.json")
    assert report["num_classes"] == 679


def test_detectron2_has_no_complaints(tool):
    pytest.importorskip("detectron2")
    from detectron2.data.datasets import load_coco_json

    from relation_heads.data.checks.format import coco_findings

    for arguments in (REASONING, "--labels sgrn --vocabulary vg.txt --min-count 1"):
        for file in (tool(arguments) / "annotations").iterdir():
            coco = read(file)
            assert not [f for f in coco_findings(coco) if f.level == "problem"]
            records = load_coco_json(str(file), "2021")
            assert sum(len(r["annotations"]) for r in records) == len(coco["annotations"])
            assert all(Path(r["file_name"]).is_file() for r in records)


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ("--labels reasoning --names names.txt --counts vg.txt", ("7 lines", "vg.txt 5")),
        ("--labels reasoning --names names.txt --counts names.txt", ("names.txt, line 1", "'-'")),
        ("--labels reasoning --val-lists names.txt", ("names.txt: none of its 7 images",)),
        ("--labels reasoning --val-lists none.txt", ("none.txt: No such file",)),
        ("--labels reasoning --names names.txt", ("--counts belong together",)),
        ("--labels reasoning --vocabulary vg.txt", ("--vocabulary is for --labels sgrn",)),
        ("--labels reasoning --published --val-lists mval.txt", ("--published stands for",)),
        ("--labels reasoning --published", ("ade_mval.txt: none of its 1000 images",)),
        ("--labels reasoning --min-count 0", ("at least 1",)),
        ("--labels reasoning --val-lists val.txt", ("called differently",)),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(tool, capsys, arguments, parts):
    with pytest.raises(SystemExit) as stopped:
        tool(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert all(part in error for part in parts), error
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "year, name",
    [(2021, "*/instance_*"), (2016, "*_seg.png"), (2021, "*_1.json"), (2016, "*_1_atr.txt")],
)
@pytest.mark.parametrize("damage", ["cut", "empty", "size", "no image"])
def test_an_image_with_a_damaged_mask_is_left_out_and_told(tool, capsys, year, name, damage):
    file = sorted(Path(f"{year}/images/training/street").glob(name))[0]
    content = file.read_bytes()
    if damage == "size":
        Image.new("RGB", (3, 3)).save(file, format="png")
    else:
        file.write_bytes({"cut": content[:-25], "empty": b"", "no image": b"text" * 9}[damage])
    out = tool("--labels reasoning --min-count 1", year)
    report = read(out / "ade_reasoning_report.json")
    if damage == "empty" and name == "*_1_atr.txt":  # no records: regions without a name
        assert report["read"]["train"]["dropped"]["pixels without a record"] == 4
        return
    assert report["images_left_out"] == {DAMAGED: 1}
    [sentence] = report["damaged"]
    assert sentence.startswith(str(file))
    [image] = read(out / "annotations" / "ade_reasoning_train.json")["images"]
    assert (image["id"], Path(image["file_name"]).stem) == (2, "ADE_train_2")
    assert DAMAGED in capsys.readouterr().out


def test_without_a_single_good_image_it_is_a_sentence(tool, capsys):
    for file in Path("2016").rglob("*_seg.png"):
        file.write_bytes(b"")
    with pytest.raises(SystemExit) as stopped:
        tool("--labels reasoning", 2016)
    assert stopped.value.code == 2
    assert "None of 4 images can be used. 2016/images/" in capsys.readouterr().err


# ---- a run that fails, and one that is stopped ----


def failed(run):
    """The report of a run that ends with a sentence."""
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 2
    assert not list(Path("out").rglob("*_classes.txt")) and not Path("out/annotations").exists()
    return read(Path("out/ade_reasoning_report.json"))


def test_what_was_found_is_reported_when_no_class_is_left(tool, capsys):
    report = failed(lambda: tool("--labels reasoning --min-count 99"))
    assert report["failed"] == "None of 7 possible classes has 99 instances."
    assert report["failed"] in capsys.readouterr().err
    assert report["read"] == {
        "train": {"images": 2, "regions": 6, "dropped": {}},
        "val": {"images": 2, "regions": 3, "dropped": {}},
    }


@pytest.mark.parametrize(
    "values, reason",
    [
        ((0, 1), "mask has no pixel of 255, but others than 0 and 128"),
        ((0, 128), "has no visible pixel"),
    ],
)
def test_masks_of_other_values_are_counted(tool, values, reason):
    for file in Path("2021").rglob("instance_*"):
        mask = np.asarray(Image.open(file)) > 0
        Image.fromarray(np.array(values, np.uint8)[mask.astype(int)]).save(file)
    report = failed(lambda: tool("--labels reasoning --min-count 1"))
    assert {split: numbers["dropped"] for split, numbers in report["read"].items()} == {
        "train": {reason: 6},
        "val": {reason: 3},
    }


def test_damaged_images_are_named_when_none_is_left(tool):
    for file in Path("2021").rglob("*.json"):
        file.write_text("{")
    report = failed(lambda: tool("--labels reasoning"))
    assert report["images_left_out"] == {DAMAGED: 4}
    assert [sentence.split(" is damaged")[0] for sentence in report["damaged"]] == [
        f"2021/images/{stem}.json" for stem in IMAGES
    ]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")}


@pytest.mark.parametrize("year", [2016, 2021])
@pytest.mark.parametrize("stop_at", range(4))
@pytest.mark.parametrize("cut", [0, 7])
def test_a_stopped_run_goes_on_where_it_was(tool, monkeypatch, year, stop_at, cut):
    damaged = sorted(Path(f"{year}/images/validation").rglob("*_1*.jpg"))[0]
    damaged.write_bytes(b"")
    expected = contents(tool("--labels reasoning --min-count 1", year, "whole"))
    original, was_read = ade20k.read_image, []

    def read_until(path, **options):
        was_read.append(path.stem)
        if len(was_read) > stop_at:
            raise KeyboardInterrupt
        return original(path, **options)

    monkeypatch.setattr(ade20k, "read_image", read_until)
    with pytest.raises(SystemExit, match="130"):
        tool("--labels reasoning --min-count 1 --workers 1", year)
    kept = Path("out/ade_read.jsonl")
    lines = kept.read_bytes().splitlines(keepends=True) if kept.exists() else []
    good = [stem for stem in was_read[:stop_at] if stem != damaged.stem]
    assert len(lines) == len(good)
    if lines and cut:  # the last line was not written to its end
        kept.write_bytes(b"".join(lines)[:-cut])
        good.pop()
    assert not Path("out/annotations").exists()

    was_read.clear()
    stop_at = 99
    out = tool("--labels reasoning --min-count 1 --workers 1", year)
    every = [Path(stem).stem for stem in IMAGES]
    assert was_read == [stem for stem in every if stem not in good]
    assert contents(out) == expected


def test_nothing_is_read_twice_unless_it_changed(tool, monkeypatch):
    tool("--labels reasoning --min-count 1")
    original, was_read = ade20k.read_image, []

    def noted(path, **options):
        was_read.append(path.stem)
        return original(path, **options)

    monkeypatch.setattr(ade20k, "read_image", noted)
    tool("--labels sgrn --vocabulary vg.txt --min-count 1")
    assert was_read == []
    mask = sorted(Path("2021").rglob("ADE_val_1/instance_*"))[0]
    Image.fromarray(filled((0, 0, 1, 1), 255)).save(mask)
    out = tool("--labels reasoning --min-count 1")
    assert was_read == ["ADE_val_1"]
    assert (
        contents(out)[Path("annotations/ade_reasoning_val.json")]
        == contents(tool("--labels reasoning --min-count 1", output="anew"))[
            Path("annotations/ade_reasoning_val.json")
        ]
    )
    was_read.clear()
    tool("--labels reasoning --min-count 1 --amodal")
    assert len(was_read) == 4
