"""Mechanism × form × task × boxes × end × backbone: a pairwise part of the matrix, and its page."""

from __future__ import annotations

import itertools
import json

import pytest

pytest.importorskip("detectron2")

from tests.modeling import matrix
from tests.modeling.matrix_cells import CELLS, Cell, must_name, noise_coco, pairwise, run, sample

PAGE = matrix.ROOT / "docs" / "matrix.md"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    with noise_coco(tmp_path_factory.mktemp("noise")) as name:
        yield name


@pytest.mark.parametrize("cell", sample(), ids=str)
def test_a_cell_works_or_is_refused_in_one_sentence(cell, dataset):
    outcome = run(cell, dataset)
    assert outcome.kind == ("refused" if must_name(cell) else "works"), outcome.text


def pairs(cells):
    """((axis, level), (axis, level)) of each cell, by a way of their own."""
    found = set()
    for cell in cells:
        for a in range(len(cell)):
            for b in range(a):
                found.add(((b, cell[b]), (a, cell[a])))
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_the_sample_has_every_pair_of_levels(seed):
    chosen = sample(seed)
    works = [cell for cell in chosen if not must_name(cell)]
    assert pairs(chosen) == pairs(itertools.product(*map(set, zip(*CELLS, strict=True))))
    # 6 mechanisms × 3 levels need 18; refused cells are cheap.
    assert len(works) <= 23 and len(set(chosen)) == len(chosen) <= 52
    impossible = pairs(CELLS) - pairs(works)
    assert impossible == {
        ((1, "C4"), (2, "+ keypoint")),
        ((1, "Cascade"), (3, "per class")),
    }


def test_pairs_that_no_cell_has_are_not_asked_for():
    cells = [Cell(a, b, "", "", "", "") for a, b in ("xx", "xy", "yx")]
    assert sorted(pairwise(cells)) == cells
    assert len(CELLS) == 972 and sum(bool(must_name(cell)) for cell in CELLS) == 108 + 162


RECORD = {"commit": "0123abc", "seed": 0, "seconds": 1.0, "machine": "any", "command": "matrix"}


def test_the_page_counts_what_works_and_says_each_sentence_once():
    wrong = {
        "none, FPN, box, agnostic, NMS, stock": ["works", ""],
        "none, FPN, box, agnostic, learned, GC": ["works", ""],
        "none, FPN, box, agnostic, NMS, GC": ["fails", "a"],
        "none, C4, + keypoint, agnostic, NMS, GC": ["refused", "No."],
        "none, C4, + keypoint, agnostic, NMS, stock": ["refused", "No."],
    }
    lines = matrix.table({**RECORD, "cells": wrong}).splitlines()
    assert "| none | FPN | 2 of 3, 1 × [1] |  |  |  |  |  |" in lines
    assert "| none | C4 |  |  |  |  | 2 × [2] |  |" in lines
    assert lines[-2:] == ["1. fails: a", "2. refused: No."]


def test_a_record_is_read_as_it_was_written():
    cells = {str(CELLS[0]): ["works", ""], str(CELLS[1]): ["refused", 'MODEL.X "é" must be 1.']}
    record = {**RECORD, "cells": cells}
    assert json.loads(matrix.as_json(record)) == record
    assert len(matrix.as_json(record).splitlines()) == len(RECORD) + 2 + len(cells) + 2


def test_the_page_in_docs_is_of_its_record_and_complete():
    record = json.loads(PAGE.with_suffix(".json").read_text())
    assert PAGE.read_text() == matrix.table(record)
    assert list(record["cells"]) == [str(cell) for cell in CELLS]
    kinds = {name: kind for name, (kind, _) in record["cells"].items()}
    assert kinds == {str(c): "refused" if must_name(c) else "works" for c in CELLS}
