"""The README's Python code runs, and the files and names that it mentions exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_code_runs(code):
    names: dict = {}
    exec(code, names)
    assert names["related"].shape == (3, 1024)
    assert [w.shape for w in names["weights"]] == [(16, 2, 2), (16, 1, 1)]


def test_linked_files_exist():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_configs_of_the_table_exist():
    names = re.findall(r"`((?:COCO-Detection|RelationalScenes)/[\w{},\[\]]+)`", README)
    assert len(names) >= 5
    for name in names:
        pattern = re.sub(r"\{(\d+),(\d+)\}", r"\1", name)
        for variant in {re.sub(r"\[.*\]", "", pattern), re.sub(r"[\[\]]", "", pattern)}:
            assert (ROOT / "configs" / f"{variant}.yaml").is_file(), variant


def test_every_relation_key_is_in_the_table():
    pytest.importorskip("detectron2")
    from relation_heads import get_cfg

    for key, default in get_cfg().MODEL.RELATION.items():
        row = next((line for line in README.splitlines() if f"`{key}`" in line), None)
        assert row, key
        assert str(default) in row, row
