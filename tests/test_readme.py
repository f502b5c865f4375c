"""The README's Python code runs, and the files and names that it mentions exist."""

import os
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


def variants(name):
    """`{a,b}_x[_y]` to `a_x`, `a_x_y`, `b_x`, `b_x_y`."""
    choice = re.search(r"\{(.*?)\}|\[(.*?)\]", name)
    if not choice:
        return [name]
    options = choice[1].split(",") if choice[1] else ["", choice[2]]
    return [v for o in options for v in variants(name.replace(choice[0], o, 1))]


def test_configs_of_the_table_exist():
    names = re.findall(
        r"`((?:[\w{},]+-Detection|Cityscapes-\w+|Region\w+|RelationalScenes)/[\w{},\[\]]+)`", README
    )
    assert len(names) >= 8
    for name in names:
        for variant in variants(name):
            assert (ROOT / "configs" / f"{variant}.yaml").is_file(), variant


def flat(node, start=""):
    """Keys of a node and of those inside it: `LOCAL.CHANNELS`."""
    keys = {}
    for key, value in node.items():
        keys.update(
            flat(value, f"{start}{key}.") if isinstance(value, dict) else {start + key: value}
        )
    return keys


@pytest.mark.parametrize(
    "group", ["RELATION", "SGRN", "REASONING", "CONTEXT_BLOCKS", "GLORE_HEAD", "DUPLICATE_REMOVAL"]
)
def test_every_key_is_in_its_table(group):
    pytest.importorskip("detectron2")
    from relation_heads import get_cfg

    table = README.split(f"### `MODEL.{group}`")[1].split("\n##")[0]
    for key, default in flat(get_cfg().MODEL[group]).items():
        rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
        row = next((cells for cells in rows if f"`{key}`" in cells[1]), None)
        assert row, key
        assert str(default) in row[2], row


def test_scripts_can_be_called_as_the_readme_does():
    scripts = [*(ROOT / "tools").glob("*.py"), *(ROOT / "datasets").glob("*.py")]
    assert len(scripts) > 10
    for script in scripts:
        assert script.read_text().startswith("#!/usr/bin/env python\n"), script
        assert os.access(script, os.X_OK), script
