"""The Cityscapes scripts are found by the name by which Detectron2 imports them."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.data import MetadataCatalog

from relation_heads import build_evaluator, get_cfg
from relation_heads.evaluation import cityscapes
from tests.helpers import unregister

# The names that Detectron2's evaluator uses; the numbers are made up.
LABELS = """
from collections import namedtuple
Label = namedtuple("Label", "id ignoreInEval")
trainId2label = {0: Label(7, False), 1: Label(8, False), 255: Label(0, True)}
"""
EVALUATION = """
from types import SimpleNamespace
import numpy as np
from PIL import Image
import cityscapesscripts.evaluation  # the real scripts import one another by this name
from cityscapesscripts.helpers.labels import trainId2label
args = SimpleNamespace()
getPrediction = lambda args, gt: args.predictionPath + "/a_pred.png"
def evaluateImgLists(predictions, truths, args):
    assert len(predictions) == len(truths) == 1
    prediction = np.array(Image.open(predictions[0]))
    assert prediction.tolist() == [[7, 8]]
    assert np.in1d(prediction, [8, 26]).reshape(prediction.shape).tolist() == [[False, True]]
    assert np.in1d(prediction, [8, 26], invert=True).ravel().tolist() == [True, False]
    kinds = ("Classes", "InstClasses", "Categories", "InstCategories")
    return {f"averageScore{kind}": k / 10 for k, kind in enumerate(kinds)}
"""


def forget():
    for name in list(sys.modules):
        if name.split(".")[0] in ("deeplearning", cityscapes.INSTALLED):
            del sys.modules[name]


@pytest.fixture
def absent(monkeypatch, tmp_path):
    """A process in which nobody has looked for the scripts, and they are not installed."""
    before = {k: v for k, v in sys.modules.items() if k.split(".")[0] == cityscapes.INSTALLED}
    forget()

    class Hide:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == cityscapes.INSTALLED:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Hide, *sys.meta_path])
    yield
    forget()
    sys.modules.update(before)


@pytest.fixture
def present(absent, monkeypatch, tmp_path):
    for file, text in {
        "__init__.py": "",
        "helpers/__init__.py": "",
        "helpers/labels.py": LABELS,
        "evaluation/__init__.py": "",
        "evaluation/evalPixelLevelSemanticLabeling.py": EVALUATION,
        "evaluation/evalInstanceLevelSemanticLabeling.py": "",
    }.items():
        path = tmp_path / cityscapes.INSTALLED / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[1:])
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def name(tmp_path):
    (tmp_path / "gt" / "town").mkdir(parents=True)
    (tmp_path / "gt" / "town" / "a_gtFine_labelIds.png").touch()
    MetadataCatalog.get("town").set(
        evaluator_type="cityscapes_sem_seg", gt_dir=str(tmp_path / "gt")
    )
    yield "town"
    unregister("town")


@pytest.mark.usefixtures("absent")
def test_missing_scripts_are_one_sentence(name):
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match=r"no cityscapesscripts: install"):
            build_evaluator(get_cfg(), name)
    assert "deeplearning" not in sys.modules


@pytest.mark.usefixtures("present")
def test_a_package_that_the_scripts_need_is_missing(name, tmp_path):
    labels = tmp_path / cityscapes.INSTALLED / "helpers" / "labels.py"
    labels.write_text("import no_such_package")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match=r"no no_such_package: install cityscapessc"):
            build_evaluator(get_cfg(), name)


@pytest.mark.usefixtures("present")
def test_the_evaluator_prints_the_four_numbers(name):
    for _ in range(2):
        evaluator = build_evaluator(get_cfg(), name)
        evaluator.reset()
        logits = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # (2 classes, 1, 2)
        evaluator.process([{"file_name": "x/a.png"}], [{"sem_seg": logits}])
        results = evaluator.evaluate()["sem_seg"]
        for module in cityscapes.MODULES:  # not loaded twice
            names = (f"{cityscapes.INSTALLED}.{module}", f"{cityscapes.IMPORTED}.{module}")
            assert sys.modules[names[0]] is sys.modules[names[1]]
        assert results == pytest.approx({"IoU": 0, "iIoU": 10, "IoU_sup": 20, "iIoU_sup": 30})
