"""What the sweep over stock configs calls ok, refused and failed."""

import pytest

pytest.importorskip("detectron2")

from pathlib import Path

from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import StandardROIHeads

from relation_heads.analysis.sweep import (
    OFF,
    STARTS_AS_STOCK,
    Cell,
    mechanism_of,
    pairs,
    registered_heads,
    stock_configs,
    sweep,
    table,
)

FPN = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
C4 = "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"
RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"


class LosesAKey(StandardROIHeads):
    """Its first fully connected layer has another name."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.box_head.fc_first = self.box_head.fc1
        del self.box_head.fc1


class Louder(StandardROIHeads):
    """Detects with other scores."""

    def forward(self, images, features, proposals, targets=None):
        found, losses = super().forward(images, features, proposals, targets)
        if not self.training:
            found[0].scores = found[0].scores * 1.001
        return found, losses


class Dearer(StandardROIHeads):
    """Learns with another loss."""

    def forward(self, images, features, proposals, targets=None):
        found, losses = super().forward(images, features, proposals, targets)
        if self.training:
            losses["loss_cls"] = losses["loss_cls"] * 1.001
        return found, losses


class NeedsObjects(StandardROIHeads):
    """Breaks down without objects."""

    def forward(self, images, features, proposals, targets=None):
        if targets is not None and not len(targets[0]):
            raise RuntimeError("no objects")
        return super().forward(images, features, proposals, targets)


class Infinite(StandardROIHeads):
    """Has a loss that is not finite."""

    def forward(self, images, features, proposals, targets=None):
        found, losses = super().forward(images, features, proposals, targets)
        if self.training:
            losses["loss_cls"] = losses["loss_cls"] / 0
        return found, losses


class Same(StandardROIHeads):
    """The stock head."""


@pytest.fixture(autouse=True)
def _heads(monkeypatch):
    """The heads of this file are registered, and promise the stock head."""
    known = {**ROI_HEADS_REGISTRY._obj_map}
    for cls in (LosesAKey, Louder, Dearer, NeedsObjects, Infinite, Same):
        known[cls.__name__] = cls
        monkeypatch.setitem(OFF, cls.__name__, [])
    monkeypatch.setattr(ROI_HEADS_REGISTRY, "_obj_map", known)


def says(*problems):
    """A check that has these problems with every head but the stock ones."""

    def check(cfg, path, opts):
        assert Path(path).is_file()
        assert opts in ([], ["MODEL.ROI_HEADS.NAME", cfg.MODEL.ROI_HEADS.NAME])
        found = ["A file is missing."]  # a problem of the stock config too
        if cfg.MODEL.ROI_HEADS.NAME not in ("StandardROIHeads", "Res5ROIHeads"):
            found += problems
        raise ValueError("\n".join(["The config cannot work:", *(f"- {p}" for p in found)]))

    return check


def one(config, head, *problems):
    (cell,) = sweep([config], [head], says(*problems))
    assert (cell.config, cell.head) == (config, head)
    return cell


def test_the_stock_head_is_ok_and_compared():
    cell = one(FPN, "Same")
    assert (cell.result, cell.reason) == ("ok", "") and len(cell.compared) == 2


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("LosesAKey", "2 stock keys are lost, first roi_heads.box_head.fc1.weight"),
        ("Louder", "detections with the mechanism off: scores differs from the stock model by"),
        ("Dearer", "losses with the mechanism off: loss_cls differs from the stock model by"),
        ("NeedsObjects", "RuntimeError: no objects (test_sweep.py:"),
        ("Infinite", "losses are not finite: loss_cls"),
    ],
)
def test_what_a_head_does_wrongly_is_named(head, reason):
    cell = one(FPN, head)
    assert cell.result == "FAILED" and cell.reason.startswith(reason) and not cell.compared


def test_where_the_stock_model_needs_objects_ours_may_too():
    cell = one("Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml", "NeedsObjects")
    assert (cell.result, cell.reason) == ("ok", "")


def test_a_head_that_is_not_built_fails():
    cell = one(RETINANET, "Same")
    assert cell.result == "FAILED" and "built without the head" in cell.reason


def test_one_sentence_refuses_and_nothing_is_built(monkeypatch):
    monkeypatch.setattr("relation_heads.analysis.sweep.build_model", None)
    cell = one(FPN, "Same", "It does not fit.")
    assert (cell.result, cell.reason) == ("refused", "It does not fit.")


def test_a_check_may_raise_its_sentence_without_a_title():
    def check(cfg, path, opts):
        if cfg.MODEL.ROI_HEADS.NAME == "Same":
            raise ValueError("It does not fit.")

    (cell,) = sweep([FPN], ["Same"], check)
    assert (cell.result, cell.reason) == ("refused", "It does not fit.")


def test_two_sentences_fail():
    cell = one(FPN, "Same", "It does not fit.", "Nor does it work.")
    assert cell.result == "FAILED"
    assert cell.reason == "refused in 2 sentences: It does not fit. Nor does it work."


@pytest.mark.parametrize(
    ("config", "head", "compared"),
    [
        (FPN, "RelationROIHeads", 3),
        (FPN, "SGRNROIHeads", 2),
        (FPN, "ReasoningROIHeads", 2),
        (C4, "Res5DuplicateRemovalROIHeads", 2),
        (C4, "ContextRes5ROIHeads", 2),
    ],
)
def test_our_heads_are_compared_with_the_stock_model(config, head, compared):
    cell = one(config, head)
    assert (cell.result, cell.reason) == ("ok", "") and len(cell.compared) == compared


def test_a_start_that_is_not_the_identity_is_found(monkeypatch):
    monkeypatch.setattr("relation_heads.analysis.sweep.STARTS_AS_STOCK", (*STARTS_AS_STOCK, "SGRN"))
    cell = one(FPN, "SGRNROIHeads")
    assert cell.result == "FAILED" and cell.reason.startswith("detections at the start")


def test_names():
    heads = registered_heads()
    assert {"RelationROIHeads", "Res5SGRNROIHeads", "ContextRes5ROIHeads"} <= set(heads)
    assert "StandardROIHeads" not in heads and "Same" not in heads
    assert not any("RegionClassification" in head for head in heads)
    assert {"Same", "Louder"} <= set(registered_heads([__name__]))
    assert {mechanism_of(head) for head in heads} == set(OFF) - set(registered_heads([__name__]))


def test_all_stock_configs_are_found():
    names = stock_configs()
    assert len(names) == 59 and len(set(names)) == 59
    assert FPN in names and RETINANET in names


def test_every_tenth_cell_depends_on_the_seed_alone():
    def chosen(seed):
        return pairs(stock_configs(), ["a", "b", "c"], tenth=True, seed=seed)

    every = pairs(stock_configs(), ["a", "b", "c"])
    assert len(every) == len(set(every)) == 177
    assert len(chosen(0)) == 18 and set(chosen(0)) < set(every)
    assert chosen(0) == chosen(0) != chosen(1)
    assert sorted(chosen(0), key=every.index) == chosen(0)  # a config is built once


def test_sentences_of_the_table_are_numbered_and_follow_once():
    relation = "Res5RelationROIHeads"
    cells = [
        Cell("a.yaml", "SGRNROIHeads", "ok", compared=("detections",)),
        Cell("a.yaml", "Res5SGRNROIHeads", "refused", "Res5SGRNROIHeads: set SGRNROIHeads."),
        Cell("b.yaml", "Res5SGRNROIHeads", "FAILED", "Broken."),
        Cell("b.yaml", relation, "refused", f"{relation}: set RelationROIHeads."),
    ]
    lines = table(cells).splitlines()
    assert lines[0] == "| | Res5RelationROIHeads | Res5SGRNROIHeads | SGRNROIHeads |"
    assert lines[2:4] == ["| a |  | refused [1] | ok |", "| b | refused [1] | FAILED [2] |  |"]
    assert lines[5:7] == ["[1] Res5...ROIHeads: set ...ROIHeads.", "[2] Broken."]
    assert lines[-1] == (
        "1 ok, 2 refused, 1 FAILED of 4 cells; 1 were compared with the stock model."
    )
