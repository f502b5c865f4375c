"""GloRe units that are put into a trained network: the images, the forms, the table."""

from dataclasses import asdict

import numpy as np
import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.modeling import build_model

from relation_heads.analysis.insertions import (
    BARE,
    CASES,
    CURE,
    FORMS,
    LR,
    Outcome,
    config_of,
    draw,
    start_as_the_other_layers,
    table,
)
from relation_heads.layers import GloRe


def test_both_objects_are_far_apart_and_in_any_corner():
    """What differs from a drawing of other looks is two boxes in opposite corners."""
    corners = set()
    for seed in range(20):
        image, other = (
            draw(p, np.random.default_rng(seed)) for p in (("disc", "ring"), ("cross", "sun"))
        )
        changed = (image != other).any(axis=2)
        halves = changed[:28], changed[28:36], changed[36:]
        assert halves[0].any() and not halves[1].any() and halves[2].any()
        left = changed[:28, :28].any()
        assert changed[:28, 36:].any() != left and changed[36:, :28].any() != left
        assert changed[36:, 36:].any() == left
        corners.add(bool(left))
    assert corners == {True, False}


@pytest.mark.parametrize("form", FORMS)
def test_a_unit_changes_the_network_unless_it_starts_at_zero(form):
    """Same weights with and without the unit: equal maps where it starts at zero, far from it
    where nothing holds it."""
    torch.manual_seed(0)
    plain = build_model(config_of("", "", LR, 0, 1, 2, "")).network.eval()
    cfg = config_of("res5", form, LR, 0, 1, 2, "")
    model = build_model(cfg).eval()
    network = model.network
    missing = network.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(".glore." in name for name in missing)
    if not FORMS[form].zero:
        start_as_the_other_layers(model)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after = (net(images)["res5"] for net in (plain, network))
    share = float((after - before).norm() / before.norm())
    (unit,) = (m for m in model.modules() if isinstance(m, GloRe))
    assert unit.num_nodes == 16 and unit.normalize == FORMS[form].normalize
    assert (share == 0) == FORMS[form].zero


def test_the_cases_have_the_report_and_its_cure():
    assert {("res5", BARE, LR), ("res5", BARE, LR / 10), ("res5", CURE, LR)} <= set(CASES)
    assert len(set(CASES)) == len(CASES)


def test_the_table_has_a_row_for_every_case():
    good = Outcome("", "", 0.04, 0, 0.5, 0.125, None, 90.0)
    bad = Outcome("res5", BARE, 0.01, 0, 105.0, None, 3, None)
    worse = Outcome("res5", BARE, 0.01, 1, None, None, 0, None)
    made = {"machine": "here", "commit": "abc", "iterations": 7, "batch": 2}
    rows = [asdict(o) for o in (good, bad, worse)]
    found = table({**made, "before": 90.0, "insertions": rows}).splitlines()
    assert found[2] == "| no unit |  | 0.04 | 0.5 | 0.125 | 90.0 |"
    assert found[3] == (
        f"| res5 | {BARE} | 0.01 | 105 / not finite | diverged at 3 / diverged at 0 | - / - |"
    )
    assert "90.0 %" in found[5] and "7 iterations of 2 images" in found[5]
