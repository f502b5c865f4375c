"""Detectron2's federated loss knows how often classes of any data set occur."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

from detectron2.data import MetadataCatalog

from relation_heads import get_cfg
from relation_heads.engine import RelationTrainer
from relation_heads.engine.federated import provide_class_image_count
from tests.helpers import registered, tiny_cfg, tiny_coco

FEDERATED = (
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True,
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES", 3,
)  # fmt: skip


def test_images_are_counted_over_all_training_sets(tmp_path):
    # Two pictures of three objects each, of the classes 0 1 2 and 3 0 1.
    coco = tiny_coco(tmp_path / "a", num_classes=4, num_images=2)
    with registered(coco) as first, registered(coco) as second:
        provide_class_image_count([first, second])
        for name in (first, second):
            counts = MetadataCatalog.get(name).class_image_count
            assert [c["id"] for c in counts] == [1, 2, 3, 4]
            assert [c["image_count"] for c in counts] == [4, 4, 2, 2]


def test_given_counts_stay(tmp_path):
    given = [{"id": 1, "image_count": 7}]
    with registered(tiny_coco(tmp_path), class_image_count=given) as name:
        provide_class_image_count([name])
        assert MetadataCatalog.get(name).class_image_count == given


def test_without_a_file_the_data_set_is_named():
    with pytest.raises(ValueError, match=r"USE_FED_LOSS .* data set nothing_there has neither"):
        provide_class_image_count(["nothing_there"])


@pytest.mark.parametrize("heads", ["StandardROIHeads", "RelationROIHeads"])
def test_a_training_with_federated_loss(tmp_path, heads):
    with registered(tiny_coco(tmp_path, num_classes=4)) as name:
        opts = (*FEDERATED, "MODEL.ROI_HEADS.NAME", heads, "SOLVER.MAX_ITER", 2)
        cfg = tiny_cfg([name], [], 4, tmp_path / "out", opts, base=get_cfg())
        trainer = RelationTrainer(cfg)
        trainer.train()
        weights = trainer.model.roi_heads.box_predictor.fed_loss_cls_weights
        assert weights.tolist() == pytest.approx([3**0.5] * 4)


def test_another_choice_of_training_sets_is_counted_again(tmp_path):
    first_coco = tiny_coco(tmp_path / "a", num_classes=4, num_images=2)
    second_coco = tiny_coco(tmp_path / "b", num_classes=4, num_images=2)
    with registered(first_coco) as first, registered(second_coco) as second:

        def counted(*names):
            provide_class_image_count(names)
            found = [MetadataCatalog.get(name).class_image_count for name in names]
            assert all(counts == found[0] for counts in found)
            return [c["image_count"] for c in found[0]]

        assert counted(first) == counted(first) == [2, 2, 1, 1]
        assert counted(first, second) == [4, 4, 2, 2]
        assert counted(second) == [2, 2, 1, 1]
        assert counted(second, first) == [4, 4, 2, 2]
