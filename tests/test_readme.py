"""The README and the pages of docs/: their code runs, and the files and names in them exist."""

import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "datasets/README.md")
}
KEYS = PAGES["docs/keys.md"]


def python_code(page):
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)


def shallow_model():
    """A relational detector with random weights, and an image."""
    import torch
    from detectron2.modeling import build_model

    from relation_heads.config import find_config, get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(find_config("RelationalScenes/faster_rcnn_shallow_relation.yaml"))
    torch.manual_seed(0)
    return {"model": build_model(cfg).eval(), "image": 255 * torch.rand(3, 192, 192)}


def test_python_code_of_layers_runs():
    (code,) = [code for code in python_code("README.md") if "relation_heads.layers" in code]
    names: dict = {}
    exec(code, names)
    assert names["related"].shape == (3, 1024)
    assert [w.shape for w in names["weights"]] == [(16, 2, 2), (16, 1, 1)]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("page", ["README.md", "docs/use.md"])
def test_python_code_of_models_runs(page):
    pytest.importorskip("detectron2")
    names = {} if page == "docs/use.md" else shallow_model()
    code = [code for code in python_code(page) if "relation_heads.layers" not in code]
    exec("\n".join(code), names)
    number = len(names["found"])
    assert number > 0
    assert names["weights"].shape == (16, *2 * names["first"].shape)
    assert names["first"].sum().item() == pytest.approx(1, abs=1e-4)
    assert names["features"].shape == (number, 128)
    if page == "docs/use.md":
        assert len(names["detections"]) > 0
        assert [int(size) for size in names["detections"].image_size] == [224, 256]


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist(page):
    links = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", PAGES[page])
    for link in links:
        assert (ROOT / page).parent.joinpath(link).exists(), link
    assert links or page != "README.md"


def variants(name):
    """`{a,b}_x[_y]` to `a_x`, `a_x_y`, `b_x`, `b_x_y`."""
    choice = re.search(r"\{(.*?)\}|\[(.*?)\]", name)
    if not choice:
        return [name]
    options = choice[1].split(",") if choice[1] else ["", choice[2]]
    return [v for o in options for v in variants(name.replace(choice[0], o, 1))]


def test_configs_of_the_table_exist():
    names = re.findall(
        r"`((?:[\w{},]+-Detection|Cityscapes-\w+|Region\w+|RelationalScenes|Photos)/[\w{},\[\]]+)`",
        PAGES["docs/training.md"],
    )
    assert len(names) >= 8
    for name in names:
        for variant in variants(name):
            assert (ROOT / "configs" / f"{variant}.yaml").is_file(), variant


def test_every_head_is_in_the_readme():
    pytest.importorskip("detectron2")
    from detectron2.modeling import ROI_HEADS_REGISTRY

    import relation_heads.modeling

    package = relation_heads.modeling.__name__
    names = [name for name, heads in ROI_HEADS_REGISTRY if heads.__module__.startswith(package)]
    assert len(names) > 12
    assert not [name for name in names if f"`{name}`" not in PAGES["README.md"]]


def flat(node, start=""):
    """Keys of a node and of those inside it: `LOCAL.CHANNELS`."""
    keys = {}
    for key, value in node.items():
        keys.update(
            flat(value, f"{start}{key}.") if isinstance(value, dict) else {start + key: value}
        )
    return keys


@pytest.mark.parametrize(
    "group",
    [
        "RELATION",
        "SGRN",
        "REASONING",
        "CONTEXT_BLOCKS",
        "GLORE_HEAD",
        "DUPLICATE_REMOVAL",
        "EFFICIENTNET_LITE",
        "TORCHVISION",
    ],
)
def test_every_key_is_in_its_table(group):
    pytest.importorskip("detectron2")
    from relation_heads import get_cfg

    table = KEYS.split(f"## `MODEL.{group}`")[1].split("\n##")[0]
    for key, default in flat(get_cfg().MODEL[group]).items():
        rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
        row = next((cells for cells in rows if f"`{key}`" in cells[1]), None)
        assert row, key
        assert str(default) in row[2], row


def test_scripts_can_be_called_as_the_pages_do():
    scripts = [*(ROOT / "tools").glob("*.py"), *(ROOT / "datasets").glob("*.py")]
    assert len(scripts) > 10
    for script in scripts:
        assert script.read_text().startswith("#!/usr/bin/env python\n"), script
        assert os.access(script, os.X_OK), script


def test_the_table_of_divergence_has_all_experiments_of_its_file():
    """One row for each head, form and rate, one cell for each seed."""
    page = (ROOT / "docs" / "divergence.md").read_text()
    rows: dict[tuple[str, str, str], list[str]] = {}
    for e in json.loads((ROOT / "docs" / "divergence.json").read_text())["experiments"]:
        row = rows.setdefault((e["head"], e["what"], f"{e['lr']:g}"), [""] * 3)
        diverged = e["diverged_at"]
        row[e["seed"]] = f"{e['loss']:.2f}" if diverged is None else f"diverged at {diverged}"
    assert rows
    for names, cells in rows.items():
        assert "| " + " | ".join([*names, *cells]) + " |" in page
