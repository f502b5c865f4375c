"""Pictures of detections and relations: the numbers by hand, the drawings by their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest

from relation_heads.visualization import (
    canvas,
    class_color,
    draw_detections,
    draw_relations,
    merge_overlapping,
    side_by_side,
    upscale,
)
from relation_heads.visualization.relations import (
    KEY_COLOR,
    LEGEND,
    QUERY_COLOR,
    Heard,
    draw_heard,
)

Written = list[tuple[str, np.ndarray]]


def grey(height: int = 400, width: int = 600, value: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """Every text that is drawn, with the filled box of pixels that holds it."""
    seen: Written = []
    original = canvas.text_patch

    def spy(text: str, size: float, fill: tuple, space: tuple) -> np.ndarray:
        seen.append((text, original(text, size, fill, space)))
        return seen[-1][1]

    monkeypatch.setattr(canvas, "text_patch", spy)
    return seen


def contains(picture: np.ndarray, patch: np.ndarray) -> bool:
    """Whether the patch is in the picture, pixel by pixel."""
    h, w = patch.shape[:2]
    corners = np.argwhere((picture == patch[0, 0]).all(axis=2))
    return any(np.array_equal(picture[y : y + h, x : x + w], patch) for y, x in corners)


def test_merge_sums_the_weights_of_one_object():
    # 0 and 2 overlap by 8/12, 1 and 3 by 8/12; 4 is alone
    boxes = [[0, 0, 10, 1], [20, 0, 30, 1], [2, 0, 12, 1], [22, 0, 32, 1], [50, 0, 60, 1]]
    merged = merge_overlapping(boxes, [0.15, 0.1, 0.2, 0.3, 0.25])
    assert [i for i, _ in merged] == [3, 2, 4]  # each object is named by its strongest region
    assert [w for _, w in merged] == pytest.approx([0.4, 0.35, 0.25])


def test_merge_needs_more_than_the_threshold():
    boxes = [[0, 0, 2, 1], [0, 0, 1, 1]]  # overlap by exactly one half
    assert merge_overlapping(boxes, [0.6, 0.4]) == [(0, 0.6), (1, 0.4)]
    assert merge_overlapping(boxes, [0.6, 0.4], iou=0.49) == [(0, 1.0)]


def test_merge_does_not_chain():
    # neighbours overlap by 6/10, the ends by 1/3: the strongest end takes only its neighbour
    boxes = [[0, 0, 8, 1], [2, 0, 10, 1], [4, 0, 12, 1]]
    assert merge_overlapping(boxes, [0.5, 0.2, 0.25]) == [(0, 0.7), (2, 0.25)]


def test_merge_of_nothing_and_of_boxes_without_area():
    assert merge_overlapping([], []) == []
    assert merge_overlapping(np.zeros((0, 4)), np.zeros(0)) == []
    assert merge_overlapping([[1, 1, 1, 1]] * 2, [0.7, 0.3]) == [(0, 0.7), (1, 0.3)]


@pytest.mark.parametrize(
    ("boxes", "weights", "sentence"),
    [
        ([[0, 0, 1]], [1], "boxes must be xyxy of shape"),
        ([0, 0, 1, 1], [1], "boxes must be xyxy of shape"),
        ([[0, 0, math.inf, 1]], [1], "boxes must be finite xyxy"),
        ([[5, 5, 3, 9]], [1], "x1 <= x2"),
        ([[0, 0, 1, 1]], [1, 2], r"weights must have shape \(1,\), got \(2,\)"),
        ([[0, 0, 1, 1]], [[1]], r"weights must have shape \(1,\), got \(1, 1\)"),
        ([[0, 0, 1, 1]], [-1], "weights must be finite and not negative"),
    ],
)
def test_merge_refuses(boxes: list, weights: list, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        merge_overlapping(boxes, weights)


def test_upscale_enlarges_image_and_boxes_alike():
    image = grey(100, 150, 0)
    image[20:40, 30:60] = 255
    large, boxes = upscale(image, [[30, 20, 60, 40]], min_side=450)
    assert large.shape == (450, 675, 3)
    assert boxes.tolist() == [[135, 90, 270, 180]]
    assert large[95:175, 140:265].min() == 255 and large[:, 280:].max() == 0
    assert len(np.unique(large)) > 2  # smooth edges: the original has two levels


def test_upscale_never_reduces():
    image = grey(100, 150)
    same, boxes = upscale(image, [], min_side=64)
    assert same is not image and np.array_equal(same, image)
    assert boxes.shape == (0, 4)
    with pytest.raises(ValueError, match="min_side must be at least 1 pixel, got 0"):
        upscale(image, [], min_side=0)


def test_class_color_depends_on_the_name_alone():
    assert class_color("disc") == pytest.approx((117, 255, 209), abs=2)
    names = ["disc", "triangle", "cross", "ring", "sun", "moon", "heart", "leaf"]
    assert len({class_color(name) for name in names}) == len(names)


def test_detections_outline_the_box_in_the_colour_of_the_class(written: Written):
    image = grey()
    picture = draw_detections(image, [[100.4, 150.2, 200.3, 250.4]], ["disc"], [0.876])
    assert np.array_equal(image, grey())
    assert picture.shape == image.shape and picture.dtype == np.uint8
    for y, x in [(200, 100), (200, 199), (249, 180)]:  # left, right, bottom
        assert tuple(picture[y, x]) == class_color("disc")
    assert np.array_equal(picture[160:240, 110:190], image[160:240, 110:190])
    assert np.array_equal(picture[:, 300:], image[:, 300:])
    assert [text for text, _ in written] == ["disc 0.88"]


def test_detections_put_labels_where_all_can_be_read(written: Written):
    boxes = [[100, 100, 160, 160]] * 4
    picture = draw_detections(grey(), boxes, ["first", "second", "third", "fourth"])
    assert len(written) == 4 and all(contains(picture, patch) for _, patch in written)


@pytest.mark.parametrize("x", [-500, -20, 0, 550, 595, 700])
@pytest.mark.parametrize("y", [-500, -20, 0, 360, 395, 900])
def test_text_stays_inside_the_picture(written: Written, x: int, y: int):
    picture = draw_detections(grey(), [[x, y, x + 40, y + 40]], ["a gjpqy_long name"], [0.5])
    assert contains(picture, written[0][1])


def test_text_wider_than_the_picture_shrinks(written: Written):
    picture = draw_detections(grey(100, 60), [[10, 40, 30, 60]], ["a very long class name indeed"])
    assert written[0][1].shape[1] <= 60 and contains(picture, written[0][1])
    assert draw_detections(grey(1, 1), [[0, 0, 1, 1]], ["dot"]).shape == (1, 1, 3)


@pytest.mark.parametrize("size", [8.0, 13.9, 20.0, 24.0])
@pytest.mark.parametrize("fill", [KEY_COLOR, QUERY_COLOR, (20, 20, 20), (200, 25, 0)])
def test_text_is_complete_and_contrasts_with_its_box(size: float, fill: tuple[int, int, int]):
    patch = canvas.text_patch("|Wgjpqy_ 100%|", size, fill, (1000, 1000)).astype(int)
    edges = [patch[0], patch[-1], patch[:, 0], patch[:, -1]]
    assert all((edge == fill).all() for edge in edges)  # no glyph is cut off
    ink = np.abs(patch - fill).sum(axis=2) > 0
    rows = np.flatnonzero(ink.any(axis=1))
    assert size <= np.ptp(rows) + 1 <= 1.8 * size
    grey_levels = patch @ np.array([0.114, 0.587, 0.299])
    assert np.abs(grey_levels - grey_levels[0, 0]).max() > 90


def test_no_detections():
    image = grey()
    for boxes in ([], np.zeros((0, 4), dtype=np.float32)):
        picture = draw_detections(image, boxes, [], [])
        assert picture is not image and np.array_equal(picture, image)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_images_of_another_kind_are_refused(image: np.ndarray):
    sentence = r"must be \(height, width, 3\) uint8"
    with pytest.raises(ValueError, match=sentence):
        draw_detections(image, [], [])
    with pytest.raises(ValueError, match=sentence):
        draw_relations(image, [0, 0, 1, 1], "a", [], [], [])


def test_detections_refuse_other_lengths():
    with pytest.raises(ValueError, match="labels must have 1 entries, got 2"):
        draw_detections(grey(), [[0, 0, 1, 1]], ["a", "b"])
    with pytest.raises(ValueError, match="scores must have 1 entries, got 0"):
        draw_detections(grey(), [[0, 0, 1, 1]], ["a"], [])


QUERY = [20, 180, 60, 220]  # centre (40, 200)
KEYS = [[500, 180, 540, 220], [500, 20, 540, 60], [500, 340, 540, 380]]  # right, above, below


def yellow_rows(picture: np.ndarray, x: int, rows: slice) -> int:
    """How many pixels of a column have the hue of the lines; grey has none."""
    return int((picture[rows, x].astype(int) @ [-1, 0, 1] > 40).sum())


def test_relation_is_a_line_from_border_to_border():
    image = grey()
    picture = draw_relations(image, QUERY, "a", KEYS[:1], ["b"], [1.0])
    assert np.array_equal(image, grey())
    assert picture.shape == image.shape and picture.dtype == np.uint8
    assert all(tuple(picture[200, x]) == KEY_COLOR for x in range(70, 495, 5))
    assert tuple(picture[200, 20]) == QUERY_COLOR  # the outline of the query, over the line
    assert tuple(picture[218, 500]) == KEY_COLOR
    for y, x in [(215, 50), (185, 30), (210, 530), (200, 40), (200, 520)]:
        assert tuple(picture[y, x]) == (128, 128, 128)  # inside the boxes as it was
    dimmed = picture[260:, :]
    assert (dimmed == dimmed[0, 0]).all() and 0 < dimmed[0, 0, 0] < 90


def test_lines_are_behind_objects_on_their_way(written: Written):
    between = [280, 190, 300, 210]
    image = grey()
    image[190:210, 280:300] = 77
    picture = draw_relations(image, QUERY, "a", [*KEYS[:1], between], ["b", "c"], [0.9, 0.1])
    assert (picture[193:207, 283:297] == 77).all()
    assert np.abs(picture[200, [250, 400]].astype(int) - KEY_COLOR).max() < 20
    # A box around both ends hides no line, nor does the key that the query lies in.
    around = [0, 0, 600, 400]
    picture = draw_relations(grey(), QUERY, "a", [*KEYS[:1], around], ["b", "c"], [0.9, 0.1])
    assert np.abs(picture[200, 400].astype(int) - KEY_COLOR).max() < 20
    picture = draw_relations(grey(), [0, 0, 600, 400], "a", KEYS[:1], ["b"], [1.0])
    assert tuple(picture[200, 400]) == KEY_COLOR


def test_what_is_no_detection_is_named_in_brackets(written: Written):
    heard = [Heard(KEYS[0], "b", 0.5), Heard(KEYS[1], "c", 0.3, faint=True)]
    picture = draw_heard(grey(), QUERY, "a", 0.2, heard)
    assert [text for text, _ in written] == ["asks: a, self 20%", "b 50%", "(c) 30%"]
    assert all(contains(picture, patch) for _, patch in written)
    assert tuple(written[2][1][0, 0]) != KEY_COLOR
    assert picture[40, 520, 0] < 128 == picture[200, 520, 0]  # it stays dimmed


def test_thickness_and_opacity_grow_with_the_weight():
    thickness, opacity = [], []
    for weight in (0.02, 0.1, 0.2, 0.3, 0.4):  # relative to 0.4 of the line to the right
        # the middle of the line upwards is at (280, 120)
        picture = draw_relations(grey(), QUERY, "a", KEYS[:2], ["b", "c"], [0.4, weight])
        thickness.append(yellow_rows(picture, 280, slice(100, 140)))
        opacity.append(int(picture[120, 280, 2]))
    assert thickness == sorted(thickness) and thickness[-1] >= thickness[1] + 4
    assert (np.diff(opacity) > 0).all()
    assert yellow_rows(picture, 280, slice(190, 210)) == pytest.approx(thickness[-1], abs=2)


def test_the_strongest_line_is_full_however_small_its_weight():
    full = draw_relations(grey(), QUERY, "a", KEYS, ["b"] * 3, [0.4, 0.2, 0.1])
    small = draw_relations(grey(), QUERY, "a", KEYS, ["b"] * 3, [0.04, 0.02, 0.01])
    assert np.array_equal(full[:, 200:400], small[:, 200:400])  # the lines between the labels


def test_labels_say_how_much(written: Written):
    keys = [*KEYS, [300, 20, 320, 40], [22, 180, 62, 220], [300, 60, 320, 80], QUERY]
    weights = [0.105, 0.4, 0.004, 0.05, 0.141, 0.1, 0.2]
    picture = draw_relations(grey(), QUERY, "a", keys, list("bcdefga"), weights, top=2)
    texts = [text for text, _ in written]
    assert texts == ["asks: a, self 34%", "c 40%", "b 10%", "all other regions 15%"]
    assert all(contains(picture, patch) for _, patch in written)
    written.clear()
    draw_relations(grey(), QUERY, "a", KEYS[:2], ["b", "c"], [0.995, 0.0049])
    assert [text for text, _ in written] == ["asks: a", "b 100%", "c <1%"]


def test_a_key_on_the_query_and_a_weight_of_zero_have_no_line(written: Written):
    boxes = [QUERY, *KEYS[:2]]
    picture = draw_relations(grey(), QUERY, "a", boxes, list("abc"), [0.5, 0.5, 0.0])
    assert [text for text, _ in written] == ["asks: a, self 50%", "b 50%"]
    assert tuple(picture[200, 300]) == KEY_COLOR
    picture = draw_relations(grey(), QUERY, "a", boxes, list("abc"), [1.0, 0.0, 0.0])
    assert (picture[195:205, 300] == picture[390, 300]).all()


def test_proposals_of_one_object_are_one_line(written: Written):
    one = draw_relations(grey(), QUERY, "a", KEYS[:2], ["b", "c"], [0.625, 0.375])
    boxes = [KEYS[1], [498, 182, 541, 222], KEYS[0], KEYS[0]]
    many = draw_relations(grey(), QUERY, "a", boxes, list("cxbb"), [0.375, 0.125, 0.25, 0.25])
    assert np.array_equal(one, many)
    assert [text for text, _ in written[:3]] == ["asks: a", "b 62%", "c 38%"]


def test_a_query_without_keys(written: Written):
    picture = draw_relations(grey(), QUERY, "a", [], [], [])
    assert tuple(picture[200, 20]) == QUERY_COLOR
    assert [text for text, _ in written] == ["asks: a"]


def test_boxes_beyond_the_picture_are_moved_in(written: Written):
    boxes = [[-1e12, -40, -5, -3], [700.5, 380, 1e9, 1e12]]
    picture = draw_relations(grey(), QUERY, "a", boxes, ["b", "c"], [0.5, 0.5])
    assert picture.shape == (400, 600, 3)
    assert all(contains(picture, patch) for _, patch in written)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"query_box": [1, 2, 3]}, "query_box must be xyxy"),
        ({"query_box": [QUERY]}, "query_box must be xyxy"),
        ({"key_boxes": np.zeros((3, 5))}, "key_boxes must be xyxy"),
        ({"key_labels": ["b"]}, "key_labels must have 3 entries, got 1"),
        ({"weights": [1.0]}, r"weights must have shape \(3,\), got \(1,\)"),
        ({"weights": [1.0, math.nan, 0.0]}, "weights must be finite"),
        ({"top": 0}, "top must be at least 1, got 0"),
    ],
)
def test_relations_refuse(change: dict, sentence: str):
    good = {"query_box": QUERY, "query_label": "a", "key_boxes": KEYS, "key_labels": list("bcd")}
    good["weights"] = [0.5, 0.3, 0.2]
    with pytest.raises(ValueError, match=sentence):
        draw_relations(grey(), **{**good, **change})


def test_panels_have_one_height_and_a_caption_each():
    panels = [grey(200, 300, 60), grey(100, 50, 90), grey(200, 100, 120)]
    sheet = side_by_side(panels, ["stock", "relation", "what"])
    right = 0
    for value, width in ((60, 300), (90, 100), (120, 100)):  # the second is enlarged
        left, right = right + 4, right + 4 + width
        assert (sheet[:, left - 4 : left] == 255).all()
        assert (sheet[-204:-4, left:right] == value).all()
        caption = sheet[:-204, left:right]
        assert (caption < 100).any() and (caption[0] == 255).all()
    assert sheet.shape[1] == right + 4


def test_a_legend_is_below_all_panels(written: Written):
    panels = [grey(200, 300), grey(200, 300)]
    bare = side_by_side(panels, ["a", "b"])
    sheet = side_by_side(panels, ["a", "b"], LEGEND)
    assert np.array_equal(sheet[: len(bare)], bare)
    strip = sheet[len(bare) :]
    for color, text in LEGEND:
        assert (strip == color).all(axis=2).sum() > 30
        assert text in [said for said, _ in written]


def test_a_long_caption_stays_over_its_panel(written: Written):
    sheet = side_by_side([grey(200, 60), grey(200, 60)], ["a caption longer than that", ""])
    assert written[0][1].shape[1] <= 60 and contains(sheet, written[0][1])


def test_panels_refuse():
    with pytest.raises(ValueError, match=r"must be \(height, width, 3\) uint8"):
        side_by_side([grey()[..., 0]], ["a"])
    with pytest.raises(ValueError, match="at least one image, got none"):
        side_by_side([], [])
    with pytest.raises(ValueError, match="captions must have 2 entries, got 1"):
        side_by_side([grey(), grey()], ["a"])
