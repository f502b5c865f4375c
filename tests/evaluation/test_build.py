"""The evaluator follows from the metadata of the data set, and its limit from the config."""

from __future__ import annotations

import uuid

import pytest

pytest.importorskip("detectron2")

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators

from relation_heads.evaluation import GroupedCOCOEvaluator, build, build_evaluator
from relation_heads.evaluation.sparse_evaluator import SparseCOCOEvaluator
from tests.helpers import tiny_cfg, tiny_coco, unregister


@pytest.fixture
def cfg(tmp_path):
    return tiny_cfg([], [], 3, tmp_path / "out")


@pytest.fixture
def dataset(tmp_path):
    """Makes metadata with an `evaluator_type` and whatever else; removed at the end."""
    coco, names = tiny_coco(tmp_path), []

    def make(kind, **metadata):
        names.append(f"build_{uuid.uuid4().hex}")
        MetadataCatalog.get(names[-1]).set(
            evaluator_type=kind,
            json_file=str(coco.json_file),
            thing_classes=coco.class_names,
            **metadata,
        )
        return names[-1]

    yield make
    unregister(*names)


def test_coco(dataset, cfg, tmp_path):
    evaluator = build_evaluator(cfg, dataset("coco"))
    assert type(evaluator) is COCOEvaluator
    assert evaluator._output_dir == str(tmp_path / "out" / "inference")


def test_coco_with_groups(dataset, cfg):
    evaluator = build_evaluator(cfg, dataset("coco", class_groups={"class0": "a"}), "elsewhere")
    assert type(evaluator) is GroupedCOCOEvaluator
    assert evaluator._output_dir == "elsewhere"


@pytest.mark.parametrize(("detections", "limit"), [(-1, 100), (20, 100), (100, 100), (300, 300)])
def test_only_more_detections_than_coco_counts_change_the_limit(dataset, cfg, detections, limit):
    cfg.TEST.DETECTIONS_PER_IMAGE = detections
    assert build_evaluator(cfg, dataset("coco"))._max_dets_per_image == [1, 10, limit]


@pytest.mark.parametrize("metadata", [{}, {"class_groups": {"class0": "a"}}])
def test_sigmas_of_keypoints_are_those_of_the_config(dataset, cfg, metadata):
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1, 0.2, 0.3]
    assert build_evaluator(cfg, dataset("coco", **metadata))._kpt_oks_sigmas == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(("detections", "limit"), [(100, 100), (300, 300)])
def test_many_classes_are_evaluated_sparsely(dataset, cfg, monkeypatch, detections, limit):
    monkeypatch.setattr(build, "MANY_CLASSES", 2)
    name = dataset("coco")
    cfg.DATASETS.TRAIN = (name,)
    cfg.TEST.DETECTIONS_PER_IMAGE = detections
    evaluator = build_evaluator(cfg, name)
    assert type(evaluator) is SparseCOCOEvaluator
    assert evaluator._max_dets == limit
    assert evaluator._counts.images == {1: 4, 2: 4, 3: 4}
    assert evaluator._truth.objects.masks.tolist() == [None] * 12
    cfg.MODEL.MASK_ON = True
    with pytest.raises(ValueError, match="annotation with id 1 has no 'segmentation'"):
        build_evaluator(cfg, name)
    cfg.MODEL.KEYPOINT_ON = True
    assert type(build_evaluator(cfg, name)) is COCOEvaluator


class Recorded:
    """Stands for an evaluator whose files or packages are not here."""

    def __init__(self, name, *args, **kwargs):
        self.kwargs = kwargs


@pytest.mark.parametrize(
    ("kind", "evaluator"),
    [
        ("sem_seg", "SemSegEvaluator"),
        ("lvis", "LVISEvaluator"),
        ("pascal_voc", "PascalVOCDetectionEvaluator"),
        ("cityscapes_instance", "CityscapesInstanceEvaluator"),
        ("cityscapes_sem_seg", "CityscapesSemSegEvaluator"),
    ],
)
def test_other_types(dataset, cfg, kind, evaluator, monkeypatch):
    stand_in = type(evaluator, (Recorded,), {})
    monkeypatch.setattr(build, evaluator, stand_in)
    monkeypatch.setattr(build, "provide_cityscapes_scripts", lambda: None)
    assert type(build_evaluator(cfg, dataset(kind))) is stand_in


@pytest.mark.parametrize(("detections", "limit"), [(100, None), (300, None), (500, 500)])
def test_lvis_counts_300_detections(dataset, cfg, detections, limit, monkeypatch):
    monkeypatch.setattr(build, "LVISEvaluator", Recorded)
    cfg.TEST.DETECTIONS_PER_IMAGE = detections
    assert build_evaluator(cfg, dataset("lvis")).kwargs["max_dets_per_image"] == limit


def test_panoptic_is_three_evaluators(dataset, cfg, monkeypatch):
    for evaluator in ("SemSegEvaluator", "COCOPanopticEvaluator"):
        monkeypatch.setattr(build, evaluator, type(evaluator, (Recorded,), {}))
    evaluators = build_evaluator(cfg, dataset("coco_panoptic_seg"))
    assert type(evaluators) is DatasetEvaluators
    assert [type(e).__name__ for e in evaluators._evaluators] == [
        "SemSegEvaluator",
        "COCOEvaluator",
        "COCOPanopticEvaluator",
    ]


@pytest.mark.parametrize("kind", [None, "mine"])
def test_unknown_types_are_one_sentence(dataset, cfg, kind):
    name = dataset(kind)
    with pytest.raises(NotImplementedError, match=f"{name} has evaluator_type {kind!r}.*coco, "):
        build_evaluator(cfg, name)
