"""Region classification from the data set to the table, by the trainer."""

import pytest

pytest.importorskip("detectron2")

import torch

from relation_heads import get_cfg
from relation_heads.engine import RelationTrainer
from relation_heads.engine.checks import check_cfg
from tests.helpers import registered, tiny_cfg, tiny_coco
from tests.modeling.common import REASONING

GIVEN = (
    *REASONING,
    "MODEL.ROI_HEADS.NAME", "RegionClassificationROIHeads",
    "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals",
)  # fmt: skip


@pytest.mark.parametrize("modules", [[], ["local", "global"]], ids=["baseline", "reasoning"])
def test_given_boxes_are_trained_and_evaluated(tmp_path, modules):
    coco = tiny_coco(tmp_path / "data", empty_image=True, crowd=True)
    with registered(coco) as name:
        opts = (*GIVEN, "MODEL.REASONING.MODULES", modules)
        cfg = tiny_cfg([name], [name], 3, tmp_path / "out", opts, base=get_cfg())
        check_cfg(cfg)
        torch.manual_seed(0)
        trainer = RelationTrainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        results = RelationTrainer.evaluate(cfg, resume=True)
        kinds = {"_plain", "_local", "_global"} if modules else {"_plain"}
        assert results.keys() == {"region_cls", *(f"region_cls{k}" for k in kinds)}
        for metrics in results.values():
            # three boxes in each of three images, one of which is a crowd
            assert metrics["num_regions"] == 8 and metrics["num_missing"] == 0
            assert 0 <= metrics["AC-instance"] <= 100
