"""Images, splits, vocabulary and boxes of Visual Genome, each against a plain statement of it."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from relation_heads.data.visual_genome import boxes as vg_boxes
from relation_heads.data.visual_genome import images as vg
from relation_heads.data.visual_genome.images import Photo, Tally
from tests.data.visual_genome_fixture import COCO_SYNSETS, an_object, image_record, synset_of


def write(path, value):
    path.write_text(json.dumps(value))
    return path


# ---- vocabulary ----


def test_the_published_vocabulary():
    names = vg.published_classes()
    content = "".join(f"{name}\n" for name in names).encode()
    digest = "eb01d1921b991445a5d9052eb2c29fd9324120549d84530debb720b28c3a6a32"
    assert hashlib.sha256(content).hexdigest() == digest
    assert len(names) == len(set(names)) == 3000
    assert (names[0], names[-1]) == ("tree.n.01", "chessman.n.01")
    senses = Counter(name.rpartition(".n.")[0] for name in names)
    assert sum(count > 1 for count in senses.values()) == 85  # so names need their senses


def test_another_list_is_refused(tmp_path, monkeypatch):
    changed = tmp_path / vg.PUBLISHED_FILE.name
    changed.write_bytes(vg.PUBLISHED_FILE.read_bytes().replace(b"\n", b"\r\n"))
    monkeypatch.setattr(vg, "PUBLISHED_FILE", changed)
    assert len(vg.published_classes()) == 3000  # of a checkout with other line endings
    changed.write_bytes(changed.read_bytes().replace(b"tree.n.01", b"tree.n.02", 1))
    with pytest.raises(
        ValueError, match=r"vg3000_synsets\.txt is not the published list of VG3000"
    ):
        vg.published_classes()


def test_the_fixture_has_a_published_synset_for_each_name_of_coco():
    assert set(COCO_SYNSETS.values()) <= set(vg.published_classes())
    assert synset_of("traffic light") == "traffic_light.n.01"
    assert synset_of("kite") == "kite.n.03"


# ---- images ----


@pytest.mark.parametrize(
    "change, file_name, left_out",
    [
        ({}, "VG_100K_2/7.jpg", ""),
        ({"url": "https://cs.stanford.edu/people/rak248/VG_100K/2370463.jpg"},
         "VG_100K/2370463.jpg", ""),  # not the id
        ({"url": None}, "", vg.NO_FILE_NAME),
        ({"url": "https://example.org/7.jpg"}, "", vg.NO_FILE_NAME),
        ({"url": "https://example.org/VG_100K/../7.jpg"}, "", vg.NO_FILE_NAME),
        ({"url": "https://example.org/XVG_100K/7.jpg"}, "", vg.NO_FILE_NAME),
        ({"width": 0}, "VG_100K_2/7.jpg", vg.NO_SIZE),
        ({"height": "60"}, "VG_100K_2/7.jpg", vg.NO_SIZE),
        ({"height": True}, "VG_100K_2/7.jpg", vg.NO_SIZE),
    ],
)  # fmt: skip
def test_file_name_and_size(tmp_path, change, file_name, left_out):
    record = {**image_record(7, "VG_100K_2/7.jpg", (80, 60), None), **change}
    photos = vg.read_photos(write(tmp_path / "d.json", [record]), Tally(), Tally())
    assert (photos[7].file_name, photos[7].left_out) == (file_name, left_out)


def test_images_are_sorted_and_repeated_ones_told(tmp_path):
    records = [image_record(k, f"VG_100K/{k}.jpg", (80, 60), None) for k in (3, 1, 3, 2)]
    records[2]["width"] = 99
    records[3]["url"] = records[0]["url"]
    repeated = Tally()
    photos = vg.read_photos(write(tmp_path / "d.json", records), repeated, Tally())
    assert list(photos) == [1, 2, 3] and photos[3].width == 80
    assert repeated.report() == {vg.REPEATED_IMAGE: {"count": 1, "first": ["image 3, record 2"]}}
    assert [photo.left_out for photo in photos.values()] == ["", vg.REPEATED_FILE, ""]


@pytest.mark.parametrize("record", [5, {}, {"image_id": "7"}, {"image_id": True},
                                    {"image_id": -1}, {"image_id": 1 << 70}])  # fmt: skip
def test_records_without_id_are_refused_by_file_and_number(tmp_path, record):
    good = image_record(1, "VG_100K/1.jpg", (80, 60), None)
    path = write(tmp_path / "d.json", [good, record])
    with pytest.raises(
        ValueError, match=r"d\.json, record 1 must be an object with an integer 'im"
    ):
        vg.read_photos(path, Tally(), Tally())
    with pytest.raises(ValueError, match=r"d\.json, record 1 must be"):
        vg_boxes.read_boxes(path, {}, Tally(), Tally())


def jpeg(size, orientation=None, quality=95):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8))
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif, quality=quality)
    return file.getvalue()


@pytest.mark.parametrize(
    "content, size",
    [
        (jpeg((80, 60)), (80, 60)),
        (jpeg((80, 60), orientation=3), (80, 60)),
        (jpeg((80, 60), orientation=6), (60, 80)),
        (jpeg((1, 9)), (1, 9)),
        (jpeg((80, 60))[:-900], vg.BROKEN_FILE),  # the size can be read, the rest not
        (b"", vg.BROKEN_FILE),
        (b"<html>", vg.BROKEN_FILE),
        (None, vg.NO_FILE),
    ],
    ids=["jpeg", "upside down", "turned", "thin", "truncated", "empty", "html", "none"],
)
def test_decoded_size_is_the_one_detectron2_reads(tmp_path, content, size):
    path = tmp_path / "1.jpg"
    if content is not None:
        path.write_bytes(content)
    assert vg.decoded_size(path) == size
    if isinstance(size, tuple):
        pytest.importorskip("detectron2")
        from detectron2.data.detection_utils import read_image

        assert read_image(str(path)).shape[1::-1] == size


def test_sizes_are_those_of_the_files(tmp_path):
    photos = {k: Photo(k, f"{k}.jpg", 80, 60, None) for k in (1, 2, 3)}
    photos[2].width = photos[2].height = 0
    photos[2].left_out = vg.NO_SIZE
    photos[4] = Photo(4, "", 80, 60, None, vg.NO_FILE_NAME)
    (tmp_path / "1.jpg").write_bytes(jpeg((80, 60)))
    (tmp_path / "2.jpg").write_bytes(jpeg((33, 22)))
    mended = Tally()
    vg.check_files(photos, tmp_path, 2, mended)
    left_out = ["", "", vg.NO_FILE, vg.NO_FILE_NAME]
    assert [photo.left_out for photo in photos.values()] == left_out
    assert (photos[2].width, photos[2].height) == (33, 22)
    first = ["image 2, 33 x 22 instead of 0 x 0"]
    assert mended.report() == {vg.OTHER_SIZE: {"count": 1, "first": first}}
    with pytest.raises(ValueError, match=r"None of 2 images can be read in .*folders VG_100K and"):
        vg.check_files(photos, tmp_path / "other", 2, mended)


# ---- splits ----


def some_photos(num=100):
    """Two of three are of COCO, with the id 1000 + their own; number 0 does not say."""
    photos = {k: Photo(k, f"VG_100K/{k}.jpg", 8, 6, 1000 + k if k % 3 else None)
              for k in range(num)}  # fmt: skip
    photos[0].coco_id = vg.UNKNOWN
    return photos


@pytest.mark.parametrize("rule", vg.SPLIT_RULES)
def test_splits_are_disjoint_and_complete(rule):
    photos = some_photos()
    splits = vg.split_images(photos, rule, 10, seed=3)
    train, test = (60, 30) if rule == "scene-graph" else (80, 10)
    assert {k: len(ids) for k, ids in splits.items()} == {"train": train, "val": 10, "test": test}
    assert splits["train"] | splits["val"] | splits["test"] == set(photos)


def test_the_leak_free_rule_holds_out_nothing_of_coco():
    photos = some_photos()
    splits = vg.split_images(photos, "leak-free", 10)
    assert splits["test"] == set(range(72, 100, 3)) and splits["val"] == set(range(42, 72, 3))
    assert all(photos[k].coco_id is None for k in splits["test"] | splits["val"])


def test_val_of_coco_is_not_trained_on():
    photos = some_photos()
    coco_val = {1001, 1002, 1098, 5}
    splits = vg.split_images(photos, "leak-free", 10, coco_val=coco_val)
    assert splits["val"] == {1, 2, 98} and len(splits["test"]) == 10
    assert not {photos[k].coco_id for k in splits["train"] | splits["test"]} & coco_val
    with pytest.raises(ValueError, match="None of 100 images is one of the 1 of COCO"):
        vg.split_images(photos, "leak-free", 10, coco_val={5})


def test_random_splits_depend_on_the_seed_alone():
    photos = some_photos()
    shuffled = dict(random.Random(0).sample(sorted(photos.items()), len(photos)))
    splits = vg.split_images(photos, "random", 10, seed=1)
    assert splits == vg.split_images(shuffled, "random", 10, seed=1)
    assert splits != vg.split_images(photos, "random", 10, seed=2)
    assert sorted(splits["test"]) == [1, 16, 20, 24, 32, 35, 47, 53, 85, 88]  # as sha256sum has it
    del photos[16]
    fewer = vg.split_images(photos, "random", 10, seed=1)
    assert len(fewer["test"] & splits["test"]) == 9


@pytest.mark.parametrize("rule, held_out, count", [("leak-free", 17, 33), ("random", 50, 100)])
def test_too_few_images_are_told(rule, held_out, count):
    with pytest.raises(ValueError, match=f"There are {count} images.* too few to hold out"):
        vg.split_images(some_photos(), rule, held_out)


# ---- boxes ----


@pytest.mark.parametrize(
    "box, expected",
    [
        ((10, 20, 30, 40), (10, 20, 30, 40)),
        ((0, 0, 100, 80), (0, 0, 100, 80)),
        ((-5, -6, 20, 30), (0, 0, 15, 24)),  # not 20 x 30
        ((90, 70, 50, 50), (90, 70, 10, 10)),
        ((-5, -5, 500, 500), (0, 0, 100, 80)),
        ((99, 79, 1, 1), (99, 79, 1, 1)),
        ((0.1, 0.2, 0.3 + 1, 1.4), (0.1, 0.2, 1.3, 1.4)),
        ((99.5, 0, 9, 9), vg_boxes.THIN),
        ((100, 0, 9, 9), vg_boxes.OUTSIDE),
        ((5, -904, 9, 9), vg_boxes.OUTSIDE),
        ((-9, 0, 9, 9), vg_boxes.OUTSIDE),
        ((5, 5, 0, 9), vg_boxes.EMPTY),
        ((5, 5, 9, -3), vg_boxes.EMPTY),
        ((5, 5, 9, None), vg_boxes.NO_BOX),
        ((5, "5", 9, 9), vg_boxes.NO_BOX),
        ((True, 5, 9, 9), vg_boxes.NO_BOX),
        ((float("nan"), 5, 9, 9), vg_boxes.NO_BOX),
        ((5, 5, float("inf"), 9), vg_boxes.NO_BOX),
        ((5, 5, 10**400, 9), vg_boxes.NO_BOX),
    ],
)
def test_boxes_are_clipped_before_they_are_measured(box, expected):
    parsed = vg_boxes.parse_object(an_object(1, box, ["tree.n.01"], ["tree"]), 100, 80)
    assert parsed == (expected if isinstance(expected, str) else ("tree.n.01", expected))


@pytest.mark.parametrize(
    "synsets, reason",
    [
        ([], vg_boxes.NO_SYNSET),
        (None, vg_boxes.NO_SYNSET),
        ("tree.n.01", vg_boxes.NO_SYNSET),
        ([""], vg_boxes.NO_SYNSET),
        ([7], vg_boxes.NO_SYNSET),
        (["tree.n.01", "wood.n.01"], vg_boxes.SEVERAL_SYNSETS),
    ],
)
def test_exactly_one_synset(synsets, reason):
    item = an_object(1, (1, 1, 5, 5), synsets, ["tree"])
    assert vg_boxes.parse_object(item, 100, 80) == reason
    assert vg_boxes.parse_object([item], 100, 80) == vg_boxes.NOT_AN_OBJECT


@pytest.mark.parametrize(
    "names, expected",
    [
        (["oak tree"], ("oak tree", (1, 1, 5, 5))),
        ([], vg_boxes.NO_NAME),
        (["tree", "oak"], vg_boxes.SEVERAL_NAMES),
    ],
)
def test_a_name_as_label(names, expected):
    item = an_object(1, (1, 1, 5, 5), ["tree.n.01"], names)
    assert vg_boxes.parse_object(item, 100, 80, label="names") == expected


def random_folder(path, seed, num_images=30):
    rng = random.Random(seed)
    photos = {k: Photo(k, f"VG_100K/{k}.jpg", 100, 80, None) for k in range(1, num_images + 1)}
    records, expected = [], []
    for image_id in rng.sample(sorted(photos), num_images):
        objects = []
        for _ in range(rng.randrange(9)):
            synset = rng.choice(["a.n.01", "b.n.01", "c.n.02", "d.n.01"])
            box = rng.randrange(90), rng.randrange(70), rng.randrange(1, 11), rng.randrange(1, 11)
            objects.append(an_object(10 * len(expected) + 7, box, [synset], ["x"]))
            expected.append((image_id, synset, *box))
        records.append({"image_id": image_id, "objects": objects})
    write(path, records)
    return photos, expected


def rows_of(boxes):
    labels = [boxes.synsets[k] for k in boxes.labels.tolist()]
    columns = (boxes.image_ids.tolist(), labels, boxes.boxes.tolist())
    return [(image_id, label, *box) for image_id, label, box in zip(*columns, strict=True)]


@pytest.mark.parametrize("seed", range(5))
def test_select_and_count_equal_a_loop(tmp_path, seed):
    photos, expected = random_folder(tmp_path / "o.json", seed)
    left_out, mended = Tally(), Tally()
    boxes = vg_boxes.read_boxes(tmp_path / "o.json", photos, left_out, mended)
    assert rows_of(boxes) + [None] * left_out.counts.total() == [
        row for k, row in enumerate(expected) if row not in expected[:k]
    ] + [None] * (len(expected) - len(set(expected)))
    assert not mended.counts and boxes.num_objects == len(expected)
    ids = set(random.Random(seed).sample(sorted(photos), 12))
    chosen = vg_boxes.select(boxes, ["d.n.01", "unseen.n.01", "a.n.01"], ids)
    rows = [r for r in rows_of(boxes) if r[0] in ids and r[1] in ("d.n.01", "a.n.01")]
    assert rows_of(chosen) == sorted(rows, key=lambda row: row[0])
    counts = vg_boxes.count_synsets(boxes, ids)
    labels = [row[1] for row in rows_of(boxes) if row[0] in ids]
    assert counts == {name: labels.count(name) for name in boxes.synsets}
    assert list(counts) == sorted(counts, key=lambda name: (-counts[name], name))


def test_no_objects_at_all(tmp_path):
    photos = {1: Photo(1, "VG_100K/1.jpg", 100, 80, None)}
    boxes = vg_boxes.read_boxes(write(tmp_path / "o.json", []), photos, Tally(), Tally())
    assert photos[1].left_out == vg_boxes.NO_RECORD and boxes.boxes.shape == (0, 4)
    assert vg_boxes.count_synsets(boxes, photos) == {}
    assert len(vg_boxes.select(boxes, ["a.n.01"], photos).boxes) == 0


def test_coco_files_have_whole_numbers_where_they_are(tmp_path):
    ids, labels = np.array([4, 4, 9]), np.array([1, 0, 1])
    values = np.array([[1, 2, 3, 4], [0.5, 0, 2.25, 2], [0, 0, 7, 7]], dtype=float)
    photos = [Photo(4, "VG_100K/4.jpg", 8, 6, None), Photo(9, "VG_100K_2/1.jpg", 7, 7, 5)]
    path = tmp_path / "new" / "vg.json"
    boxes = vg_boxes.Boxes(ids, labels, values, ["a.n.01", "b.n.02"], 3)
    vg_boxes.write_coco(path, {"description": "x"}, photos, boxes)
    assert json.loads(path.read_text()) == {
        "info": {"description": "x"},
        "categories": [{"id": 1, "name": "a.n.01"}, {"id": 2, "name": "b.n.02"}],
        "images": [
            {"id": 4, "file_name": "VG_100K/4.jpg", "width": 8, "height": 6},
            {"id": 9, "file_name": "VG_100K_2/1.jpg", "width": 7, "height": 7, "coco_id": 5},
        ],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 2, "bbox": [1, 2, 3, 4], "area": 12,
             "iscrowd": 0},
            {"id": 2, "image_id": 4, "category_id": 1, "bbox": [0.5, 0, 2.25, 2], "area": 4.5,
             "iscrowd": 0},
            {"id": 3, "image_id": 9, "category_id": 2, "bbox": [0, 0, 7, 7], "area": 49,
             "iscrowd": 0},
        ],
    }  # fmt: skip
    assert "[1, 2, 3, 4]" in path.read_text() and "1.0" not in path.read_text()
    assert [file.name for file in path.parent.iterdir()] == ["vg.json"]
