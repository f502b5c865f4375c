"""Relation modules in the box head together with a mechanism and learned duplicate removal."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

import torch

from relation_heads.layers import ObjectRelation
from tests.modeling.common import (
    C4,
    C4_REASONING,
    C4_SGRN,
    CASCADE,
    CASCADE_REASONING,
    CASCADE_SGRN,
    REASONING,
    REFINE,
    SGRN,
    assert_same_detections,
    build_heads,
    calls,
    head_detections,
    head_losses,
    scattered,
)

RELATIONS = ("MODEL.ROI_BOX_HEAD.NAME", "RelationBoxHead")
LEARNED = ("MODEL.DUPLICATE_REMOVAL.LEARN", True, "MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "learned")
# name -> (stock keys, keys, node of the mechanism)
HEADS = {
    "FPN SGRN": ((), SGRN, "SGRN"),
    "C4 SGRN": (C4, C4_SGRN, "SGRN"),
    "Cascade SGRN": (CASCADE, CASCADE_SGRN, "SGRN"),
    "FPN SGRN two stages": ((), (*SGRN, *REFINE), "SGRN"),
    "FPN reasoning": ((), REASONING, "REASONING"),
    "C4 reasoning": (C4, C4_REASONING, "REASONING"),
    "Cascade reasoning": (CASCADE, CASCADE_REASONING, "REASONING"),
}
heads_ = pytest.mark.parametrize(("stock", "keys", "node"), HEADS.values(), ids=HEADS)


def listening(heads):
    return [m for m in heads.modules() if isinstance(m, ObjectRelation)]


@pytest.mark.parametrize("end", [(), LEARNED], ids=["nms", "learned"])
@heads_
def test_they_train_and_detect_together(stock, keys, node, end):
    stock, heads = build_heads(*stock), build_heads(*keys, *RELATIONS, *end)
    result = heads.load_state_dict(stock.state_dict(), strict=False)
    assert not result.unexpected_keys
    new = {"relation1", "relation2", "mechanism"} | ({"end"} if end else set())
    assert all(new & set(name.split(".")) for name in result.missing_keys)
    assert len(listening(heads)) == (6 if stock.__class__.__name__ == "CascadeROIHeads" else 2)

    names = head_losses(build_heads(*keys)).keys()
    found = head_losses(heads)
    assert found.keys() == names | ({"loss_duplicates"} if end else set())
    assert all(value.isfinite() for value in found.values())
    sum(found.values()).backward()
    for name, parameter in heads.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and gradient.isfinite().all(), name
        if ".relation" in name or name.startswith("end.network."):
            # softmax cannot tell the bias of the keys
            assert gradient.any() or name.endswith("key.bias"), name
    assert all(len(d) > 0 for d in head_detections(heads))


@heads_
def test_both_see_the_same_regions(stock, keys, node):
    """All proposals, of which the appended ground truth asks and does not answer."""
    heads = build_heads(*keys, *RELATIONS)
    told = [calls(module) for module in listening(heads)]
    head_losses(heads, scattered((40, 50)))
    for seen in told:
        ((_, regions), _), *_ = seen
        assert regions.is_key is not None and 0 < (~regions.is_key).sum() <= 8
        assert len(regions) > 2 * 32


@heads_
def test_without_modules_in_the_box_head_it_is_the_mechanism_alone(stock, keys, node):
    alone = build_heads(*keys)
    heads = build_heads(*keys, *RELATIONS, "MODEL.RELATION.NUM_RELATIONS", [0, 0])
    assert heads.state_dict().keys() == alone.state_dict().keys()
    expected, actual = head_losses(alone), head_losses(heads)
    assert all(torch.equal(actual[name], value) for name, value in expected.items())
    assert_same_detections(head_detections(heads), head_detections(alone), rtol=0, atol=0)


@pytest.mark.parametrize("name", [RELATIONS[1], "FastRCNNConvFCHead"])
def test_the_second_stage_is_embedded_by_the_same_kind_of_box_head(name):
    keys = ("MODEL.ROI_BOX_HEAD.NAME", name, "MODEL.SGRN.SHARE_FC", False)
    heads = build_heads(*SGRN, *REFINE, *keys)
    assert type(heads.mechanism.box_head) is type(heads.box_head)
    assert type(heads.box_head).__name__ == name
    sum(head_losses(heads).values()).backward()
    assert all(p.grad is not None for p in heads.mechanism.box_head.parameters())


# ---- which regions ----

SAMPLING = [("SAMPLING", "regions"), ("SAMPLING", "off"), ("GT_AS_KEYS", True)]


@pytest.mark.parametrize(("key", "value"), SAMPLING)
@pytest.mark.parametrize(("keys", "node"), [(SGRN, "SGRN"), (C4_REASONING, "REASONING")])
def test_both_ask_for_the_same_sample(keys, node, key, value):
    relation, other = (f"MODEL.{n}.{key}" for n in ("RELATION", node))
    for only in (relation, other):
        with pytest.raises(ValueError, match=rf"{relation} .* {other} .* must be equal") as error:
            build_heads(*keys, *RELATIONS, only, value)
        assert str(value) in str(error.value)
    heads = build_heads(*keys, *RELATIONS, relation, value, other, value)
    assert {"SAMPLING": heads.sampling, "GT_AS_KEYS": heads.gt_as_keys}[key] == value
    head_losses(heads)


def test_what_is_switched_off_asks_for_no_sample():
    """The keys of a part that does not look at regions are not compared."""
    regions = ("MODEL.SGRN.SAMPLING", "regions")
    build_heads(*SGRN, *RELATIONS, *regions, "MODEL.SGRN.GRAPH_DIMS", [])
    heads = build_heads(*SGRN, *RELATIONS, *regions, "MODEL.RELATION.NUM_RELATIONS", [0, 0])
    assert heads.sampling == "regions"
