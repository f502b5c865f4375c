"""Boxes of ADE20K's two releases are the extents of the masks, and what does not fit is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from relation_heads.data import ade20k
from relation_heads.data.ade20k import Region, extents, find_images, merged_name, read_image

HEIGHT, WIDTH = 12, 16


def slow_extent(mask):
    """Box and area of a mask, pixel by pixel."""
    pixels = [(x, y) for y in range(len(mask)) for x in range(len(mask[0])) if mask[y][x]]
    x1, x2 = min(x for x, _ in pixels), max(x for x, _ in pixels)
    y1, y2 = min(y for _, y in pixels), max(y for _, y in pixels)
    return (x1, y1, x2 - x1 + 1, y2 - y1 + 1), len(pixels)


def random_blobs(seed, values):
    """(HEIGHT, WIDTH) uint8 with a ragged shape of each value, from left to right; 0 elsewhere."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value, band in zip(values, np.array_split(np.arange(WIDTH), len(values)), strict=True):
        window = labels[rng.integers(0, 5) : rng.integers(6, HEIGHT), band[0] : band[-1]]
        window[rng.random(window.shape) < 0.4] = value
        window[0, 0] = value
    return labels


def write_photo(path, width=WIDTH, height=HEIGHT, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path, **options)


def write_blue(path, blue):
    """An RGB image whose red and green would give other instances."""
    noise = np.random.default_rng(0).integers(0, 255, (*blue.shape, 2))
    Image.fromarray(np.dstack([noise, blue]).astype(np.uint8)).save(path)


def record(name, mask=None, level=0, polygon=()):
    x, y = [p[0] for p in polygon], [p[1] for p in polygon]
    return {
        "id": 7,  # of no meaning, so always the same here
        "raw_name": name,
        "parts": {"part_level": level},
        **({} if mask is None else {"instance_mask": mask}),
        "polygon": {"x": x, "y": y},
    }


@pytest.fixture
def new(tmp_path):
    """Writes an image of the 2021 release: records, and masks by file name."""

    def write(objects, masks=()):
        path = tmp_path / "training" / "street" / "a.jpg"
        write_photo(path)
        (path.parent / "a").mkdir(exist_ok=True)
        for name, mask in dict(masks).items():
            Image.fromarray(mask).save(path.parent / name)
        content = json.dumps({"annotation": {"object": objects}})
        path.with_suffix(".json").write_text(content, encoding="utf-8")
        return path

    return write


@pytest.fixture
def old(tmp_path):
    """Writes an image of the 2016 release: lines of _atr.txt, and the blue channels per level."""

    def write(lines, *blues):
        path = tmp_path / "validation" / "h" / "b.jpg"
        write_photo(path)
        (path.parent / "b_atr.txt").write_bytes(b"\n".join([*lines, b""]))
        for level, blue in enumerate(blues):
            write_blue(path.parent / f"b_{f'parts_{level}' if level else 'seg'}.png", blue)
        return path

    return write


def line(number, level, name):
    return f'{number:03d} # {level} # 0 # class # {name} # ""'.encode()


@pytest.mark.parametrize("seed", range(5))
def test_extents_are_those_of_the_pixels(seed):
    labels = random_blobs(seed, (3, 200, 255, 9))
    values = sorted(set(labels.ravel().tolist()) - {0})
    assert extents(labels) == [slow_extent(labels == value) for value in values]


# ---- 2021 ----


@pytest.mark.parametrize("amodal", [False, True])
def test_2021_boxes_are_the_extents_of_their_own_masks(new, amodal):
    masks = {}
    for index in range(3):
        blobs = random_blobs(index, (1, 2))
        masks[f"a/{index}.png"] = np.choose(blobs, [0, 255, 128]).astype(np.uint8)
    objects = [record("wheel", "a/2.png", level=1), record("old car", "a/0.png")]
    objects += [record("rim", "a/1.png", level=2)]
    image = read_image(new(objects, masks), amodal=amodal)
    inside = [masks[o["instance_mask"]] > (0 if amodal else 254) for o in objects]
    assert image.regions == [
        Region(name, level, *slow_extent(mask))
        for name, level, mask in zip(("wheel", "old_car", "rim"), (1, 0, 2), inside, strict=True)
    ]
    assert (image.height, image.width, image.num_polygons) == (HEIGHT, WIDTH, 0)
    assert not image.dropped


def test_the_polygon_stands_in_for_a_missing_mask(new):
    square, outside = [(2, 3), (5, 3), (5, 8), (2, 8)], [(10, 9), (40, 9), (40, 30), (10, 30)]
    image = read_image(new([record("a", None, 0, square), record("b", "a/no.png", 0, outside)]))
    assert [r.box for r in image.regions] == [(2, 3, 4, 6), (10, 9, WIDTH - 10, HEIGHT - 9)]
    assert [r.area for r in image.regions] == [24, (WIDTH - 10) * (HEIGHT - 9)]
    assert image.num_polygons == 2


def test_2021_what_becomes_no_box_is_counted(new):
    hidden = np.full((HEIGHT, WIDTH), 128, np.uint8)
    square = [(2, 3), (5, 3), (5, 8)]
    objects = [record("a", "a/0.png"), record("b"), record([], None, 0, square), record(" ")]
    path = new(objects, {"a/0.png": hidden})
    dropped = {ade20k.NO_PIXEL: 1, ade20k.NO_SHAPE: 1, ade20k.NO_NAME: 2}
    assert not read_image(path).regions and read_image(path).dropped == dropped
    [region] = read_image(path, amodal=True).regions
    assert region.box == (0, 0, WIDTH, HEIGHT)


def test_a_single_object_need_not_be_in_a_list(new):
    image = read_image(new(record("dot", None, 0, [(4, 5)])))
    assert image.regions == [Region("dot", 0, (4, 5, 1, 1), 1)]


def test_bytes_that_are_not_utf8_cost_no_image(new):
    path = new([record("dot", None, 0, [(4, 5)])])
    file = path.with_suffix(".json")
    file.write_bytes(file.read_bytes().replace(b'"id"', b'"note": "caf\xe9", "id"'))
    assert [r.name for r in read_image(path).regions] == ["dot"]


@pytest.mark.parametrize(
    "content, parts",
    [
        ('{"annotation": {"object": [{"raw_name": "do', ("a.json is damaged", "not a JSON file")),
        ("[]", ("a.json is not of ADE20K", "'object'")),
        ('{"annotation": {"object": [{}, 3]}}', ("a.json, object 1 must be a JSON object",)),
        (
            '{"annotation": {"object": {"polygon": {"x": [1, 2], "y": [1]}}}}',
            ("a.json, object 0", "polygon", "finite"),
        ),
        ('{"annotation": {"object": {"polygon": {"x": [NaN], "y": [1]}}}}', ("finite",)),
        (
            json.dumps({"annotation": {"object": record("a", None, "1", [(4, 5), (8, 9)])}}),
            ("a.json, object 0", "part_level", "'1'"),
        ),
    ],
)
def test_2021_what_does_not_fit_is_named(new, content, parts):
    path = new([])
    path.with_suffix(".json").write_text(content)
    with pytest.raises(ValueError) as caught:
        read_image(path)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_masks_that_do_not_fit_are_named(new):
    path = new([record("a", "a/0.png")], {"a/0.png": np.zeros((HEIGHT, 5), np.uint8)})
    with pytest.raises(ValueError, match=r"0\.png is 5 x 12 pixels, but its image 16 x 12"):
        read_image(path)
    mask = path.parent / "a" / "0.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16), np.uint8)).save(mask)
    mask.write_bytes(mask.read_bytes()[:90])
    with pytest.raises(ValueError, match=r"0\.png cannot be read"):
        read_image(path)


def test_images_that_detectron2_would_turn_are_left_out(new):
    path = new([])
    exif = Image.Exif()
    exif[0x0112] = 6
    write_photo(path, exif=exif)
    assert read_image(path) is None


# ---- 2016 ----


def test_2016_numbers_are_ranks_in_the_blue_channel(old):
    seg, parts = random_blobs(1, (90, 7, 200)), random_blobs(2, (4, 3))
    lines = [line(2, 0, "wall"), line(1, 0, "table lamp"), line(3, 0, "sky")]
    lines += [line(1, 1, "leg"), line(2, 1, "caf\xe9").decode().encode("latin-1")]
    image = read_image(old(lines, seg, parts, parts * (parts == 3)))
    expected = [("table_lamp", 0, seg == 7), ("wall", 0, seg == 90), ("sky", 0, seg == 200)]
    expected += [("leg", 1, parts == 3), ("caf\ufffd", 1, parts == 4)]
    assert image.regions == [Region(n, level, *slow_extent(mask)) for n, level, mask in expected]
    assert image.dropped == {ade20k.NO_RECORD: 1}  # of level 2


def test_2016_a_fully_labelled_image_is_not_shifted(old):
    seg = np.full((HEIGHT, WIDTH), 5, np.uint8)
    seg[:, 9:] = 60
    image = read_image(old([line(1, 0, "wall"), line(2, 0, "floor")], seg))
    assert [(r.name, r.box[0]) for r in image.regions] == [("wall", 0), ("floor", 9)]
    assert not image.dropped


def test_2016_what_becomes_no_box_is_counted(old):
    seg = np.zeros((HEIGHT, WIDTH), np.uint8)
    seg[0], seg[1] = 1, 2
    lines = [line(1, 0, "first"), line(1, 0, "last"), line(2, 0, " "), line(9, 0, "hidden")]
    image = read_image(old(lines, seg))
    assert [r.name for r in image.regions] == ["last"]
    assert image.dropped == {ade20k.REPEATED: 1, ade20k.NO_NAME: 1, ade20k.NO_PIXEL: 1}


@pytest.mark.parametrize("bad", [b"001 # 0 # 0 # door", b"one # 0 # 0 # door # door #"])
def test_2016_what_does_not_fit_is_named(old, bad):
    path = old([line(1, 0, "wall"), bad], np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(ValueError, match=r"b_atr\.txt, line 2 must be"):
        read_image(path)
    with pytest.raises(ValueError, match="amodal boxes need the 2021 release"):
        read_image(path, amodal=True)
    (path.parent / "b_atr.txt").write_bytes(b"")
    (path.parent / "b_seg.png").unlink()
    with pytest.raises(ValueError, match=r"b_seg\.png cannot be read"):
        read_image(path)


# ---- images, names ----


def test_images_are_found_by_folder(new, old, tmp_path):
    first = new([])
    second = old([], np.zeros((HEIGHT, WIDTH), np.uint8))
    write_photo(tmp_path / "training" / "bare.jpg")
    write_photo(tmp_path / "other" / "c.jpg")
    splits, left_out = find_images(tmp_path)
    assert splits == {"train": [first], "val": [second]}
    assert left_out == {ade20k.NO_ANNOTATION: 1, ade20k.NO_SPLIT: 1}
    with pytest.raises(ValueError, match=r"no image of ADE20K's full release.* 1 are in no folder"):
        find_images(tmp_path / "other")


@pytest.mark.parametrize(
    "names",
    [
        "tennis_court court",
        "basketball_courts court",
        "short_pants pants",
        "pants pants",
        "trees tree",
        "cars car",
        "boxes box",
        "dishes dish",
        "benches bench",
        "glasses glass",
        "shelves shelf",
        "knives knife",
        "waves wave",
        "eaves eave",
        "grass grass",
        "wall wall",
        "scissors scissors",
        "sunglasses sunglass",
        "goggles goggles",
        "tennis tennis",
        "chest_of_drawers chest_of_drawers",
        "bus bu",
        "gloves glof",
        "s s",
        "left_arm left_arm",
    ],
)
def test_names_are_merged_as_published(names):
    name, merged = names.split()
    assert merged_name(name) == merged


@pytest.mark.parametrize("synset", ["traffic_light.n.01", " Traffic light ", "traffic_light"])
def test_bare_names(synset):
    assert ade20k.bare_name(synset) == "traffic_light"
