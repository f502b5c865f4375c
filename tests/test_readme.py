"""The README and the pages of docs/: their code runs, and the files and names in them exist."""

import os
import re
import textwrap
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "datasets/README.md")
}
KEYS = PAGES["docs/config.md"]


def python_code(page):
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the pages speak of: a checkpoint (random weights) and a photograph."""
    pytest.importorskip("detectron2")
    import numpy as np
    from detectron2.modeling import build_model
    from PIL import Image

    from relation_heads.config import find_config, get_cfg
    from relation_heads.engine.model_config import about_model

    folder = tmp_path_factory.mktemp("workplace")
    cfg = get_cfg()
    cfg.merge_from_file(find_config("RelationalScenes/faster_rcnn_shallow_relation.yaml"))
    torch.manual_seed(0)
    (folder / "output").mkdir()
    checkpoint = {"model": build_model(cfg).state_dict(), **about_model(cfg)}
    torch.save(checkpoint, folder / "output" / "model_final.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (200, 240, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "street.jpg")
    return folder


def test_python_code_of_layers_runs():
    names: dict = {}
    exec("\n".join(python_code("docs/layers.md")), names)
    assert names["related"].shape == (3, 1024)
    assert [w.shape for w in names["weights"]] == [(16, 2, 2), (16, 1, 1)]
    inputs = names["query"], names["key"], names["value"]
    heard = torch.nn.functional.scaled_dot_product_attention(*inputs, attn_mask=names["bias"])
    torch.testing.assert_close(names["heard"], heard)
    assert names["smaller"].shape == (1, 256, 13, 21)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("page", ["README.md", "docs/use.md", "docs/export.md"])
def test_python_code_of_models_runs(page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    names: dict = {}
    exec("\n".join(python_code(page)), names)
    if page == "docs/export.md":
        assert len(names["detections"]) > 0
        assert [int(size) for size in names["detections"].image_size] == [224, 256]
        expected = names["branch"](names["pooled"], names["boxes"], names["image_size"])
        torch.testing.assert_close((names["probabilities"], names["moved"]), expected)
        return
    found = names["found"]
    assert len(found) > 0 and {r.weights.shape[:2] for r in found.relations} == {(16, len(found))}
    if page == "README.md":
        assert (workplace / "found.jpg").is_file()
        return
    assert found.features.shape == (len(found), 128) and names["strongest"] in [
        *names["predictor"].class_names,
        "background",
    ]
    assert names["heard"].heard(0).sum() == pytest.approx(1, abs=1e-4)
    assert names["weights"].shape == (16, *2 * names["first"].shape)
    assert names["first"].sum().item() == pytest.approx(1, abs=1e-4)
    assert names["features"].shape == (len(names["instances"]), 128)


def test_python_code_of_data_sets_runs(tmp_path, monkeypatch):
    (code,) = python_code("datasets/README.md")
    monkeypatch.chdir(tmp_path)
    exec(code.replace("num_val=120", "num_val=2"), {})
    assert (tmp_path / "rare_scenes").is_dir()


def test_python_code_of_a_mechanism_stands_in_the_example():
    example = (ROOT / "examples" / "own_mechanism.py").read_text()
    for code in python_code("docs/own_mechanism.md"):
        assert textwrap.indent(code, "        ") in example or code in example


def test_python_code_of_tracking_runs():
    pytest.importorskip("trackers")
    names: dict = {}
    exec("\n".join(python_code("docs/tracking.md")), names)
    assert names["ids"].tolist() == [1, 2] and len(names["tracker"]) == 2


def test_no_page_has_other_python_code():
    run = {"README.md", "docs/use.md", "docs/export.md", "docs/layers.md"}
    run |= {"datasets/README.md", "docs/own_mechanism.md", "docs/tracking.md"}
    assert {page for page in PAGES if python_code(page)} == run


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 130


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


def test_every_head_is_in_its_table():
    pytest.importorskip("detectron2")
    from detectron2.modeling import ROI_HEADS_REGISTRY

    import relation_heads.modeling

    package = relation_heads.modeling.__name__
    names = [name for name, heads in ROI_HEADS_REGISTRY if heads.__module__.startswith(package)]
    assert len(names) > 12
    assert not [name for name in names if f"`{name}`" not in PAGES["docs/heads.md"]]


def flat(node, start=""):
    """Keys of a node and of those inside it: `LOCAL.CHANNELS`."""
    keys = {}
    for key, value in node.items():
        keys.update(
            flat(value, f"{start}{key}.") if isinstance(value, dict) else {start + key: value}
        )
    return keys


def test_pages_are_as_the_code_makes_them():
    pytest.importorskip("detectron2")
    from relation_heads.analysis.pages import pages

    for path, text in pages().items():
        assert path.read_text() == text, f"{path}: run tools/write_docs.py"


def test_every_key_is_in_its_table():
    pytest.importorskip("detectron2")
    from relation_heads import get_cfg
    from relation_heads.config.defaults import NODES

    for group in NODES:
        table = KEYS.split(f"<!-- made: keys of MODEL.{group} -->")[1].split("<!-- end of")[0]
        for key, default in flat(get_cfg().MODEL[group]).items():
            rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
            row = next((cells for cells in rows if f"`{key}`" in cells[1]), None)
            assert row and row[3].strip(), key
            assert str(default) in row[2], row


def test_scripts_can_be_called_as_the_pages_do():
    scripts = [*(ROOT / "tools").glob("*.py"), *(ROOT / "datasets").glob("*.py")]
    assert len(scripts) > 10
    for script in scripts:
        assert script.read_text().startswith("#!/usr/bin/env python\n"), script
        assert os.access(script, os.X_OK), script
