"""Pages: what stands between marks is made again, the rest stays."""

import re

import pytest

pytest.importorskip("detectron2")

from relation_heads.analysis import mutation
from relation_heads.analysis.marks import marked, put_between_marks
from relation_heads.analysis.pages import ROOT, part, table_of_experiments
from relation_heads.zoo import INDEX

PAGE = "before\n<!-- made: a -->\nold\n<!-- end of a -->\nafter\n"


def test_a_page_gets_its_text_between_the_marks():
    page = PAGE
    for text in ("new", "| newer |"):
        page = put_between_marks(page, "a", text)
    assert page == "before\n<!-- made: a -->\n\n| newer |\n\n<!-- end of a -->\nafter\n"
    with pytest.raises(ValueError, match=r"must have the lines '<!-- made: b -->' and"):
        put_between_marks(page, "b", "text")


def test_names_of_the_marks():
    other = "<!-- made: keys of MODEL.B -->\n<!-- end of keys of MODEL.B -->\n"
    assert marked(PAGE + other) == ["a", "keys of MODEL.B"]
    assert marked("<!-- made: a -->\n<!-- a comment -->\n") == []


def test_a_mark_of_nothing():
    with pytest.raises(ValueError, match="Nothing is known of the mark 'docs/none'"):
        part("docs/none")


def test_table_of_experiments():
    rows = [
        {"head": "a", "what": "x", "seed": 0, "lr": 0.02, "diverged_at": None, "loss": 1.234},
        {"head": "a", "what": "x", "seed": 2, "lr": 0.02, "diverged_at": 7, "loss": None},
        {"head": "b", "what": "", "seed": 1, "lr": 0.1, "diverged_at": None, "loss": 3.0},
    ]
    assert table_of_experiments(rows).splitlines()[2:] == [
        "| a | x | 0.02 | 1.23 |  | diverged at 7 |",
        "| b |  | 0.1 |  | 3.00 |  |",
    ]


def test_table_of_mutants():
    mutant = {"file": "a.py", "line": 7, "old": "a | b", "new": "a & b", "status": "survived"}
    results = {
        "count": 200, "seed": 3,
        "mutants": [{**mutant, "note": "equal"}, {**mutant, "status": "killed"}],
    }  # fmt: skip
    assert mutation.table(results).splitlines() == [
        "2 of 200 mutants were run (seed 3): 1 killed, 1 survived.",
        "",
        "| place | change | status | note |",
        "|:--|:--|:--|:--|",
        "| a.py:7 | `a \\| b` to `a & b` | survived | equal |",
    ]


def test_commands_of_results_hold_on_any_machine():
    files = [*(ROOT / "docs").rglob("*.json"), INDEX]
    commands = [c for f in files for c in re.findall(r'"command": "(.*?)"[,}\n]', f.read_text())]
    assert len(commands) > 30
    assert not [command for command in commands if re.search(r"(^|[ ='])/\w", command)]
    for file in files:
        assert not re.findall(r"/(?:root|home|work|tmp|usr)/\S*", file.read_text()), file
