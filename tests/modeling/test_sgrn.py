"""SGRN ROI heads with one stage, and what holds with one stage and with two."""

import pytest

pytest.importorskip("detectron2")

import torch

from relation_heads.layers.sgrn.module import CHOICES
from relation_heads.modeling.roi_heads.seam import classify
from tests.modeling.common import (
    C4,
    C4_SGRN,
    KEYPOINT,
    MASK,
    NO_GRAPH,
    NUM_CLASSES,
    REFINE,
    SGRN,
    SIZES,
    STOCK,
    assert_batch_equals_image_by_image,
    assert_same_detections,
    batch,
    build,
    build_heads,
    calls,
    detections,
    head_detections,
    head_losses,
    losses,
    maps,
    results,
    scattered,
    second_stage_gradients,
)

FAMILIES = {
    "FPN": (STOCK, SGRN),
    "FPN mask keypoint": ((*MASK, *KEYPOINT), (*SGRN, *MASK, *KEYPOINT)),
    "C4": (C4, C4_SGRN),
    "C4 mask": ((*C4, *MASK), (*C4_SGRN, *MASK)),
}
families = pytest.mark.parametrize(("stock", "ours"), FAMILIES.values(), ids=FAMILIES.keys())
FORMS = {
    "FPN": SGRN,
    "FPN two stages": (*SGRN, *REFINE),
    "C4": C4_SGRN,
    "C4 two stages": (*C4_SGRN, *REFINE),
}
forms = pytest.mark.parametrize("ours", FORMS.values(), ids=FORMS.keys())
BASE_LOSSES = {"loss_cls", "loss_box_reg"}
SGRN_LOSSES = {"loss_cls_sgrn", "loss_box_reg_sgrn"}


def sgrn(key, value):
    return (f"MODEL.SGRN.{key}", value)


ONE_STAGE = [
    *[(name.upper(), value) for name, values in CHOICES.items() for value in values],
    *[("NODE_EMBED", "hard"), ("GRAPH_DIMS", [16]), ("NUM_NEIGHBORS", 4)],
    *[("SAMPLING", value) for value in ("regions", "off")],
    *[(key, True) for key in ("GT_AS_KEYS", "FOREGROUND_EDGES")],
    *[(key, False) for key in ("POOL_BIAS", "DETACH_POOL", "DETACH_LEARNER_INPUT")],
]
ALL_EDGES = sgrn("FOREGROUND_EDGES", False)  # EDGE_NORM none excludes them
TWO_STAGES = [("SHARE_FC", False), ("SAMPLING", "regions"), ("SAMPLING", "off")]
VARIANTS = {
    **FORMS,
    "two stages, no graph": (*SGRN, *REFINE, *NO_GRAPH),
    "C4, two stages, no graph": (*C4_SGRN, *REFINE, *NO_GRAPH),
    **{f"{k} {v}": (*SGRN, *ALL_EDGES, *sgrn(k, v)) for k, v in ONE_STAGE},
    **{f"two stages, {k} {v}": (*SGRN, *REFINE, *sgrn(k, v)) for k, v in TWO_STAGES},
}


# ---- the stock head inside ----


@families
def test_without_a_graph_equals_the_stock_head_bit_for_bit(stock, ours):
    stock, ours = build_heads(*stock), build_heads(*ours, *NO_GRAPH)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in stock.named_parameters()]
    expected, actual = (head_losses(heads, scattered((40, 50))) for heads in (stock, ours))
    assert actual.keys() == expected.keys()
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name
    assert_same_detections(head_detections(ours), head_detections(stock), rtol=0, atol=0)


def test_a_whole_model_without_a_graph_equals_the_stock_model():
    stock, ours = build(), build(*SGRN, *NO_GRAPH)
    expected, actual = losses(stock), losses(ours)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert_same_detections(detections(ours), detections(stock), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("stock", "ours", "new"),
    [
        *[(stock, ours, ("roi_heads.mechanism.",)) for stock, ours in FAMILIES.values()],
        (
            STOCK,
            (*SGRN, *REFINE, *sgrn("SHARE_FC", False)),
            (
                "roi_heads.mechanism.graph.",
                "roi_heads.mechanism.predictor.",
                "roi_heads.mechanism.box_head.",
            ),
        ),
        (STOCK, (*SGRN, *REFINE, *NO_GRAPH), ("roi_heads.mechanism.predictor.",)),
    ],
    ids=[*FAMILIES, "own box head", "two stages without a graph"],
)
def test_stock_checkpoint_loads_completely(stock, ours, new):
    stock, ours = build(*stock, settle=False), build(*ours, settle=False)
    with torch.no_grad():  # models from one seed are equal before anything is loaded
        for parameter in stock.parameters():
            parameter.add_(0.01)
    result = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(any(k.startswith(n) for k in result.missing_keys) for n in new)
    assert all(k.startswith(new) for k in result.missing_keys)

    logits = [calls(model.roi_heads.box_predictor) for model in (stock, ours)]
    for model in (stock, ours):
        head_detections(model.roi_heads)
    (_, expected), (_, actual) = logits[0][0], logits[1][0]
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])


@forms
def test_the_base_losses_are_those_of_stock_proposals(ours):
    """With SAMPLING regions the base head sees the sample that Detectron2 draws."""
    stock = build_heads(*(C4 if ours in (C4_SGRN, FORMS["C4 two stages"]) else STOCK))
    ours = build_heads(*ours, *sgrn("SAMPLING", "regions"))
    expected, actual = (head_losses(heads, scattered((40, 50))) for heads in (stock, ours))
    assert actual.keys() == BASE_LOSSES | SGRN_LOSSES
    assert all(torch.equal(actual[name], expected[name]) for name in BASE_LOSSES)


# ---- training ----


@pytest.mark.parametrize("ours", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_step_trains_every_parameter(ours):
    heads = build_heads(*ours)
    result = head_losses(heads)
    assert result.keys() == BASE_LOSSES | SGRN_LOSSES
    assert all(v.isfinite() for v in result.values())
    sum(result.values()).backward()
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    trains = ["fc1.parametrizations.weight.original1", "kernels.mean", "kernels.width"]
    trains += ["kernels.shear", "learner.scale", "linear.weight"]
    for name, parameter in heads.named_parameters():
        if ".graph." in name and name.endswith(tuple(trains)):
            assert parameter.grad.any(), name


def test_losses_are_weighted():
    plain = head_losses(build_heads(*SGRN))
    weighted = head_losses(build_heads(*SGRN, *sgrn("LOSS_WEIGHTS", [2.0, 0.5])))
    for name, value in weighted.items():
        assert torch.equal(value, plain[name] * (0.5 if name in SGRN_LOSSES else 2.0)), name


@pytest.mark.parametrize("refine", [(), REFINE], ids=["one stage", "two stages"])
def test_the_semantic_pool_is_detached(refine):
    names = ("box_predictor.cls_score.weight", "box_predictor.cls_score.bias")
    hard = (*SGRN, *refine, *sgrn("NODE_EMBED", "hard"))
    for gradient in second_stage_gradients(build_heads(*hard), *names):
        assert not gradient.any()
    attached = build_heads(*hard, *sgrn("DETACH_POOL", False))
    for gradient in second_stage_gradients(attached, *names):
        assert gradient.any() and gradient.isfinite().all()
    # Soft nodes are differentiable in the base scores.
    (gradient, _) = second_stage_gradients(build_heads(*SGRN, *refine), *names)
    assert gradient.any()


@pytest.mark.parametrize("base", [SGRN, C4_SGRN], ids=["FPN", "C4"])
def test_the_input_of_the_learner_is_detached(base):
    name = "res5.2.conv3.weight" if base is C4_SGRN else "box_head.fc2.weight"
    gradients = {}
    for detached in (True, False):
        heads = build_heads(
            *base, *sgrn("NODE_EMBED", "hard"), *sgrn("DETACH_LEARNER_INPUT", detached)
        )
        dim = heads.mechanism.graph.dim
        with torch.no_grad():  # [f, h] counts for h alone, so that edges are the only way to f
            heads.mechanism.predictor.cls_score.weight[:, :dim] = 0
            heads.mechanism.predictor.bbox_pred.weight[:, :dim] = 0
        (gradients[detached],) = second_stage_gradients(heads, name)
    assert not gradients[True].any()
    assert gradients[False].any()


@pytest.mark.parametrize("base", [SGRN, C4_SGRN], ids=["FPN", "C4"])
@pytest.mark.parametrize("refine", [(), REFINE], ids=["one stage", "two stages"])
def test_all_proposals_are_keys_and_appended_ground_truth_is_not(base, refine):
    heads = build_heads(*base, *refine)
    stage = results(heads.mechanism, "_predict")
    head_losses(heads, scattered((40, 50)))  # more than the sample of 32
    regions = stage[0][0][1].regions
    per_image = [k.tolist() for k in regions.split(regions.is_key)]
    assert per_image == [[True] * 40 + [False] * 4, [True] * 50 + [False] * 4]
    head_detections(heads)
    assert stage[1][0][1].regions.is_key is None

    heads = build_heads(*base, *refine, *sgrn("GT_AS_KEYS", True))
    stage = results(heads.mechanism, "_predict")
    head_losses(heads)
    assert stage[0][0][1].regions.is_key is None


def test_foreground_edges_prefer_what_the_base_classifier_takes_for_objects():
    heads = build_heads(*SGRN, *sgrn("FOREGROUND_EDGES", True))
    graph = calls(heads.mechanism.graph)
    head_detections(heads)
    logits = torch.zeros(3, NUM_CLASSES + 1)
    logits[1, -1], logits[2, 0] = 100.0, 100.0
    *_, bias = graph[0][0]
    assert bias.shape == (40,) and (bias < 0).all() and not bias.requires_grad

    base = classify(torch.zeros(3, 64), heads.box_predictor, scattered((3,))).with_logits(logits)
    heads.mechanism._predict(base.x, base, {})
    expected = torch.tensor([5 / 6, 1e-6, 1.0]).log()
    torch.testing.assert_close(graph[1][0][3], expected)


# ---- detections ----


@forms
def test_detections_depend_on_the_other_proposals(ours):
    heads = build_heads(*ours)
    scores = calls(heads.mechanism.predictor)
    (proposals,) = scattered((20,))
    head_detections(heads, [proposals])
    head_detections(heads, [proposals[:1]])
    assert (scores[0][1][0][0] - scores[1][1][0][0]).abs().max() > 1e-6


@forms
def test_batch_equals_image_by_image(ours):
    heads = build_heads(*ours)
    features, proposals = maps(), scattered((20, 7))
    assert_batch_equals_image_by_image(heads, proposals, features)


@forms
def test_an_image_without_proposals_beside_a_full_one(ours):
    heads = build_heads(*ours)
    features = maps()
    nothing, found = head_detections(heads, scattered((0, 20)), features)
    assert len(nothing) == 0
    alone = head_detections(heads, scattered((0, 20))[1:], {k: v[1:] for k, v in features.items()})
    assert_same_detections([found], alone, rtol=0, atol=1e-5)


@forms
@pytest.mark.parametrize("append_gt", [True, False])
def test_no_proposals_and_no_objects(ours, append_gt):
    heads = build_heads(*ours, "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", append_gt)
    empty = [x["instances"] for x in batch(SIZES, objects=0)]
    result = head_losses(heads, targets=empty)
    for name in ("loss_box_reg", "loss_box_reg_sgrn"):
        assert result[name] == 0
    assert all(v.isfinite() for v in result.values())
    result = head_losses(heads, scattered((0, 0)), empty)
    sum(result.values()).backward()
    assert all(p.grad is not None for p in heads.parameters())
    assert all(p.grad.isfinite().all() for p in heads.parameters())
    full = [x["instances"] for x in batch(SIZES)]
    for counts, targets in (((0, 20), [empty[0], full[1]]), ((3, 1), full), ((0, 0), full)):
        result = head_losses(heads, scattered(counts), targets)
        assert all(v.isfinite() for v in result.values()), counts
    assert [len(d) for d in head_detections(heads, scattered((0, 0)))] == [0, 0]
