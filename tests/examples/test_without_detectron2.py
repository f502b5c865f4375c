import importlib.util
from pathlib import Path

import cv2
import pytest

from relation_heads.data.scenes.scenes import GROUPS, compose_scenes, render

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "without_detectron2.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("without_detectron2", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for split in ("train", "val"):
        module.SCENES[split] = [(scene, render(scene)) for scene in compose_scenes(40, seed=0)]
    return module


@pytest.mark.parametrize("name", ["stock", "relation, signed"])
def test_a_head_trains_and_is_evaluated_by_group(example, name, tmp_path):
    trained, accuracy = example.train((name, 2, str(tmp_path)))
    assert trained == name and accuracy.keys() == set(GROUPS)
    assert all(0 <= value <= 100 for value in accuracy.values())
    pictures = sorted((tmp_path / "pictures").glob("*.png"))
    assert [p.stem for p in pictures] == (sorted(example.ASKED) if "signed" in name else [])
    assert all(cv2.imread(str(p)).shape[0] > 640 for p in pictures)


def test_it_imports_nothing_of_detectron2():
    assert "import detectron2" not in EXAMPLE.read_text()
    assert "from detectron2" not in EXAMPLE.read_text()
