"""Masks in run lengths: lengths and extents against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from relation_heads.data.checks.masks import inspect_mask, run_extent, run_lengths


def some_masks():
    rng = np.random.default_rng(0)
    masks = [np.zeros((5, 7), np.uint8), np.ones((5, 7), np.uint8), np.zeros((300, 400), np.uint8)]
    masks[2][299, 0] = masks[2][0, 1] = 1  # two pixels that follow one another
    for density in (0.02, 0.5, 0.98):
        for height, width in ((1, 9), (9, 1), (37, 53), (200, 300)):
            masks.append((rng.random((height, width)) < density).astype(np.uint8))
    for _ in range(20):
        mask = np.zeros((480, 640), np.uint8)
        x, y, w, h = rng.integers(1, 300, 4)
        mask[y : y + h, x : x + w] = 1
        masks.append(mask)
    return masks


@pytest.mark.parametrize("mask", some_masks(), ids=lambda mask: f"{mask.shape}-{mask.sum()}")
def test_run_lengths_and_extents(mask):
    height, width = mask.shape
    text = coco_masks.encode(np.asfortranarray(mask))["counts"].decode()
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    expected = np.diff([0, *changes, len(flat)]).tolist()  # the first run may be of length 0
    for counts in (text, expected):
        runs = run_lengths(counts)
        assert runs.tolist() == expected
        extent = run_extent(runs, height)
        kind, found = inspect_mask({"size": [height, width], "counts": counts}, width, height)
        assert found == extent
        if not mask.any():
            assert extent is None and kind == "nothing"
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert extent == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert kind == "rle"
        x, y, w, h = coco_masks.toBbox(coco_masks.encode(np.asfortranarray(mask)))
        assert extent == (x, y, x + w, y + h)


@pytest.mark.parametrize(
    "counts",
    [None, 5, [1.0], ["1"], [True], [-1, 36], [1 << 70], "é", " ", "p", "o", "12oooooooo1"],
)
def test_broken_run_lengths(counts):
    """Of a mask of 5 x 7 pixels; none may be read as something else, or end in an error."""
    assert inspect_mask({"size": [5, 7], "counts": counts}, 7, 5) == ("broken", None)


def test_a_text_that_is_cut_off_is_broken():
    mask = np.asfortranarray(np.random.default_rng(0).integers(0, 2, (5, 7)).astype(np.uint8))
    text = coco_masks.encode(mask)["counts"].decode()
    for end in range(len(text)):
        size = {"size": [5, 7]}
        assert inspect_mask({**size, "counts": text[:end]}, 7, 5)[0] == "broken"
        assert inspect_mask({**size, "counts": text[:end] + "~" + text[end:]}, 7, 5)[0] == "broken"
