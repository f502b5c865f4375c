"""Results by group of classes: means over their classes, those without an instance left out."""

from __future__ import annotations

import logging
import math

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import coco_evaluation
from detectron2.structures import Boxes, Instances

from relation_heads.evaluation import GroupedCOCOEvaluator
from tests.helpers import HEIGHT, WIDTH, registered, tiny_coco, write_json

# Classes 0-3 occur three times each in four images, classes 4 and 5 not at all.
GROUPS = {
    "class0": "found",
    "class1": "found",
    "class2": "half-found",
    "class3": "half-found",
    "class4": "half-found",
    "class5": "absent",
}
IDS = (3, 5, 6, 7, 11, 12)


@pytest.fixture
def coco(tmp_path):
    coco = tiny_coco(tmp_path, num_classes=6, category_ids=IDS)
    for k, annotation in enumerate(coco.dataset["annotations"]):
        annotation["category_id"] = IDS[k % 4]
    # Of medium size for COCO, the others are small: results must be those of all sizes.
    coco.dataset["annotations"][0]["area"] = 2000
    write_json(coco.json_file, coco.dataset)
    return coco


def detections(coco, image_id):
    """Class by class: 0, all but the medium one. 1, boxes of IoU 0.7. 2, a better scored wrong box
    with every right one. 3, nothing."""
    rows = []  # box xyxy, class, score
    for annotation in coco.dataset["annotations"]:
        x, y, w, h = annotation["bbox"]
        k = IDS.index(annotation["category_id"])
        if annotation["image_id"] != image_id or k == 3 or annotation["area"] == 2000:
            continue
        rows.append(([x, y, x + (0.7001 if k == 1 else 1) * w, y + h], k, 0.9))
        if k == 2:
            rows.append(([x + w, y, x + 2 * w, y + h], k, 0.99))
    boxes, classes, scores = zip(*rows, strict=True)
    return Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.tensor(boxes)),
        pred_classes=torch.tensor(classes),
        scores=torch.tensor(scores),
    )


def evaluate(coco, name, output_dir, *, empty=False, **kwargs):
    records = DatasetCatalog.get(name)
    evaluator = GroupedCOCOEvaluator(name, output_dir=str(output_dir), **kwargs)
    evaluator._logger = logging.getLogger("grouped_coco_test")  # one that caplog can read
    evaluator.reset()
    for record in records:
        instances = detections(coco, record["image_id"])
        evaluator.process([record], [{"instances": instances[:0] if empty else instances}])
    return evaluator.evaluate()["bbox"]


@pytest.mark.parametrize("implementation", ["fast", "official", "not compiled", "300 detections"])
def test_group_results(coco, tmp_path, implementation, monkeypatch):
    kwargs = {}
    if implementation == "official":
        kwargs["use_fast_impl"] = False
    elif implementation == "not compiled":
        monkeypatch.setattr(coco_evaluation, "COCOeval_opt", coco_evaluation.COCOeval)
    elif implementation == "300 detections":
        kwargs["max_dets_per_image"] = 300
    with registered(coco, class_groups=GROUPS) as name:
        results = evaluate(coco, name, tmp_path, **kwargs)

    assert results["AP-class0"] == pytest.approx(100 * 67 / 101)  # 2 of 3 found
    assert results["AP-class1"] == pytest.approx(50)  # at IoU 0.5, 0.55, 0.6, 0.65, 0.7
    assert results["AP/found"] == pytest.approx((results["AP-class0"] + 50) / 2)
    assert results["AP50/found"] == pytest.approx((results["AP-class0"] + 100) / 2)
    assert results["AR/found"] == pytest.approx((100 * 2 / 3 + 50) / 2)
    # Every right box of class 2 comes after as many wrong ones: precision 1/2. Class 3: nothing.
    assert results["AP-class2"] == pytest.approx(50)
    assert results["AP-class3"] == 0
    assert results["AP/half-found"] == pytest.approx(25)  # without class 4
    assert results["AP50/half-found"] == pytest.approx(25)
    assert results["AR/half-found"] == pytest.approx(50)
    assert math.isnan(results["AP/absent"])
    # The same mean as COCO's own: over the four classes that occur.
    groups = 2 * results["AP/found"] + 2 * results["AP/half-found"]
    assert results["AP"] == pytest.approx(groups / 4)


def test_the_table_says_how_many_classes_counted(coco, tmp_path, caplog):
    with registered(coco, class_groups=GROUPS) as name, caplog.at_level(logging.INFO):
        evaluate(coco, name, tmp_path)
    table = next(r.message for r in caplog.records if "by group of classes" in r.message)
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[1:]]
    assert rows[0] == ["group", "classes", "AP", "AP50", "AR"]
    assert rows[2][:2] == ["found", "2"]
    assert rows[3][:2] == ["half-found", "2 of 3"]
    assert rows[4] == ["absent", "0 of 1", "nan", "nan", "nan"]


def test_no_detections_at_all(coco, tmp_path):
    with registered(coco, class_groups=GROUPS) as name:
        results = evaluate(coco, name, tmp_path, empty=True)
    assert all(
        math.isnan(results[f"{m}/{g}"]) for m in ("AP", "AP50", "AR") for g in GROUPS.values()
    )


def test_one_class_alone(tmp_path):
    """Detectron2 reports no class by name if there is only one; the group is there all the same."""
    coco = tiny_coco(tmp_path, num_classes=1, category_ids=(3,))
    with registered(coco, class_groups={"class0": "all"}) as name:
        results = evaluate(coco, name, tmp_path)
    assert results["AP/all"] == results["AP"] == pytest.approx(100)


def test_groups_of_unknown_classes_are_refused(coco, tmp_path):
    with (
        registered(coco, class_groups={"class0": "a", "moon": "a"}) as name,
        pytest.raises(ValueError, match=r"not classes: \['moon'\]"),
    ):
        GroupedCOCOEvaluator(name, output_dir=str(tmp_path))
