"""The tables of the page are those of the results beside it."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from relation_heads.analysis.given_boxes.results import read_all
from relation_heads.analysis.given_boxes.table import tables

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "photographs.md"


def test_tables_are_of_the_results():
    text = PAGE.read_text(encoding="utf-8")
    folders = re.findall(r"<!-- (docs/given_boxes/\w+) -->", text)
    assert folders == ["docs/given_boxes/voc", "docs/given_boxes/camvid"]
    for folder in folders:
        found = tables([asdict(result) for result in read_all(ROOT / folder)])
        assert f"<!-- {folder} -->\n\n{found}\n\n<!-- end of {folder} -->" in text, (
            f"tools/compare_given_boxes.py --output {folder} --table --write docs/photographs.md"
        )
