"""Iterative reasoning in ROI heads: detection, and region classification with given boxes."""

import pytest

pytest.importorskip("detectron2")

import logging

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes

from relation_heads.layers.reasoning.knowledge_graph import KnowledgeGraph
from tests.modeling.common import (
    C4,
    C4_REASONING,
    KEYPOINT,
    MASK,
    NUM_CLASSES,
    REASONING,
    SHAPES,
    SIZES,
    STOCK,
    assert_batch_equals_image_by_image,
    assert_same_detections,
    build,
    build_heads,
    calls,
    head_detections,
    head_losses,
    maps,
    scattered,
)


def key(name, value):
    return (f"MODEL.REASONING.{name}", value)


FAMILIES = {
    "FPN": (STOCK, REASONING),
    "FPN mask keypoint": ((*MASK, *KEYPOINT), (*REASONING, *MASK, *KEYPOINT)),
    "C4": (C4, C4_REASONING),
    "C4 mask": ((*C4, *MASK), (*C4_REASONING, *MASK)),
}
families = pytest.mark.parametrize(("stock", "ours"), FAMILIES.values(), ids=FAMILIES.keys())
forms = pytest.mark.parametrize("ours", [REASONING, C4_REASONING], ids=["FPN", "C4"])
OFF, LOCAL, GLOBAL = (key("MODULES", m) for m in ([], ["local"], ["global"]))
BASE = {"loss_cls", "loss_box_reg"}
BOTH = {"loss_cls_local", "loss_cls_global", "loss_cls_final"}


def graph_file(tmp_path, embeddings=None):
    graph = KnowledgeGraph(
        classes=tuple(f"class{k}" for k in range(NUM_CLASSES)),
        relations=("is-kind-of",),
        directed=(True,),
        edge_relation=torch.tensor([0, 0]),
        edge_dst=torch.tensor([0, 1]),
        edge_src=torch.tensor([2, 3]),
        edge_weight=torch.ones(2),
        embeddings=embeddings,
        meta={},
    )
    graph.save(tmp_path / "graph.npz")
    return key("GLOBAL.GRAPH_FILE", str(tmp_path / "graph.npz"))


# ---- the stock head inside ----


@families
def test_without_modules_equals_the_stock_head_bit_for_bit(stock, ours):
    stock, ours = build_heads(*stock), build_heads(*ours, *OFF)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in stock.named_parameters()]
    expected, actual = (head_losses(heads, scattered((40, 50))) for heads in (stock, ours))
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert_same_detections(head_detections(ours), head_detections(stock), rtol=0, atol=0)


@families
def test_stock_checkpoint_loads_completely(stock, ours):
    stock, ours = build(*stock, settle=False), build(*ours, settle=False)
    result = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(k.startswith("roi_heads.mechanism.reasoner.") for k in result.missing_keys)
    assert any(".memory." in k for k in result.missing_keys)


@forms
def test_the_stock_losses_stay_and_the_new_ones_do_not_train_the_detector(ours):
    stock = build_heads(*(C4 if ours is C4_REASONING else STOCK))
    ours = build_heads(*ours, *key("SAMPLING", "regions"))
    expected = head_losses(stock, scattered((40, 50)))
    features = maps(2, requires_grad=True)
    actual = head_losses(ours, scattered((40, 50)), features=features)
    assert actual.keys() == BASE | BOTH
    assert all(torch.equal(actual[name], expected[name]) for name in BASE)
    sum(actual[name] for name in BOTH).backward()
    assert all(f.grad is None for f in features.values())
    for name, parameter in ours.named_parameters():
        assert (parameter.grad is not None) == name.startswith("mechanism.reasoner."), name


@pytest.mark.parametrize("modules", [OFF, LOCAL, GLOBAL, ()], ids=["off", "local", "global", ""])
@forms
def test_losses_have_the_names_of_their_modules(ours, modules):
    expected = {"off": set(), "local": {"local", "final"}, "global": {"global", "final"}}
    names = expected.get("_".join(modules[1]) if modules[1:] and modules[1] else "off")
    if not modules:
        names = {"local", "global", "final"}
    result = head_losses(build_heads(*ours, *modules))
    assert result.keys() - BASE == {f"loss_cls_{n}" for n in names}


# ---- training ----


VARIANTS = [
    (), LOCAL, GLOBAL, key("NUM_ITERS", 1), key("CROSS_FEED", False), key("FOREGROUND", False),
    key("SAMPLING", "regions"), key("SAMPLING", "off"), key("GT_AS_KEYS", True),
    key("LOCAL.HALF_PIXEL", False), key("GLOBAL.RELATIONS", ["iou"]),
    key("GLOBAL.NORMALIZE_EDGES", False),
]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@forms
def test_a_step_trains_every_parameter(ours, variant):
    heads = build_heads(*ours, *variant)
    result = head_losses(heads)
    assert all(v.isfinite() for v in result.values())
    sum(result.values()).backward()
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_class_edges_take_part(tmp_path):
    heads = build_heads(*REASONING, *graph_file(tmp_path))
    assert len(heads.mechanism.reasoner.graph.knowledge) == 2  # and its inverse
    sum(head_losses(heads).values()).backward()
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None, name
    assert heads.mechanism.reasoner.graph.semantic[0].edges.weight.grad.any()


def test_word_vectors_of_a_graph_file_are_used_and_stay_as_they_are(tmp_path):
    vectors = torch.randn(NUM_CLASSES, 7)
    heads = build_heads(*REASONING, *graph_file(tmp_path, vectors))
    assert torch.equal(heads.state_dict()["mechanism.reasoner.graph.embeddings"], vectors)
    losses = head_losses(heads)
    sum(losses.values()).backward()
    assert not any(name.endswith("embeddings") for name, _ in heads.named_parameters())
    reads = [p.grad for n, p in heads.named_parameters() if "from_classes" in n]
    assert any(grad.shape[1:] == (7,) and grad.abs().sum() > 0 for grad in reads)


def test_without_a_graph_file_one_line_says_so(caplog):
    with caplog.at_level(logging.INFO, logger="relation_heads"):
        build_heads(*REASONING)
    lines = [r.message for r in caplog.records if "GRAPH_FILE" in r.message]
    assert len(lines) == 1 and "spatial edges between regions only" in lines[0]


def test_the_key_of_half_pixels_reaches_the_initial_memory():
    for value in (True, False):
        heads = build_heads(*REASONING, *key("LOCAL.HALF_PIXEL", value))
        assert heads.mechanism.reasoner.memory.half_pixel == heads.mechanism.half_pixel == value


def test_a_grid_reaches_as_far_as_its_image():
    """An image of 65 pixels has 5 cells of 16, the last of them for one pixel."""
    heads = build_heads(*REASONING)
    seen = []
    heads.mechanism.reasoner.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["grid_sizes"]), with_kwargs=True
    )
    sizes = ((65, 95), (49, 113), (80, 128))
    features = {
        name: torch.randn(3, shape.channels, 128 // shape.stride, 128 // shape.stride)
        for name, shape in SHAPES.items()
        if name.startswith("p")
    }
    proposals = scattered((4, 3, 2))
    for per_image, size in zip(proposals, sizes, strict=True):
        per_image._image_size = size
    head_detections(heads, proposals, features)
    assert seen == [[(5, 6), (4, 8), (5, 8)]]


def test_losses_are_weighted():
    plain = head_losses(build_heads(*REASONING))
    weighted = head_losses(build_heads(*REASONING, *key("LOSS_WEIGHTS", [2.0, 3.0, 0.5])))
    factors = {"loss_cls_local": 2.0, "loss_cls_global": 3.0, "loss_cls_final": 0.5}
    for name, value in weighted.items():
        torch.testing.assert_close(value, plain[name] * factors.get(name, 1.0))


@forms
def test_appended_ground_truth_neither_writes_nor_is_listened_to(ours):
    heads = build_heads(*ours)
    seen = []
    heads.mechanism.reasoner.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["weights"]), with_kwargs=True
    )
    head_losses(heads, scattered((40, 50)))
    weights = seen[0]
    assert len(weights) == 40 + 50 + 8  # four objects an image
    for per_image in weights.split([44, 54]):
        assert (per_image[-4:] == 0).all() and (per_image[:-4] > 0).all()


def test_regions_weigh_by_their_probability_to_be_an_object():
    heads = build_heads(*REASONING)
    seen = []
    heads.mechanism.reasoner.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0], kwargs)), with_kwargs=True
    )
    head_detections(heads)
    logits, kwargs = seen[0]
    expected = logits.softmax(1)
    torch.testing.assert_close(kwargs["weights"], 1 - expected[:, NUM_CLASSES])
    torch.testing.assert_close(kwargs["assignment"], expected[:, :NUM_CLASSES])


# ---- inference ----


@forms
def test_batch_equals_image_by_image(ours):
    heads, features, proposals = build_heads(*ours).eval(), maps(2), scattered((20, 12))
    assert_batch_equals_image_by_image(heads, proposals, features)


@pytest.mark.parametrize("name", ["plain", "local", "local1", "global", "global2", "final"])
def test_every_prediction_can_be_asked_for(name):
    heads = build_heads(*REASONING, *key("TEST_PREDICTION", name))
    seen, given = calls(heads.mechanism.reasoner), []
    inference = heads.box_predictor.inference
    heads.box_predictor.inference = lambda p, x: (given.append(p), inference(p, x))[1]
    head_detections(heads)
    out = seen[0][1]
    expected = {
        "plain": out.plain, "local": out.memory[-1], "local1": out.memory[0],
        "global": out.graph[-1], "global2": out.graph[1], "final": out.final,
    }[name]  # fmt: skip
    assert torch.equal(given[0][0], expected)


@forms
def test_no_proposals_and_no_objects(ours):
    heads = build_heads(*ours, "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", False)
    empty = scattered((0, 0))
    sum(head_losses(heads, empty).values()).backward()
    assert all(p.grad is not None for p in heads.parameters())
    assert [len(d) for d in head_detections(heads, empty)] == [0, 0]
    assert [len(d) > 0 for d in head_detections(heads, scattered((0, 9)))] == [False, True]


# ---- given boxes ----

PRECOMPUTED = ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals")
GIVEN = (*REASONING, *PRECOMPUTED, "MODEL.ROI_HEADS.NAME", "RegionClassificationROIHeads")
C4_GIVEN = (
    *(*C4_REASONING, *PRECOMPUTED),
    *("MODEL.ROI_HEADS.NAME", "Res5RegionClassificationROIHeads"),
)
given_forms = pytest.mark.parametrize("ours", [GIVEN, C4_GIVEN], ids=["FPN", "C4"])


def given(counts=(5, 3)):
    proposals = scattered(counts)
    generator = torch.Generator().manual_seed(4)
    for per_image in proposals:
        n = len(per_image)
        per_image.region_ids = torch.arange(n) * 2 + 7
        per_image.gt_classes = torch.randint(NUM_CLASSES, (n,), generator=generator)
    return proposals


@pytest.mark.parametrize("modules", [OFF, LOCAL, ()], ids=["baseline", "local", "both"])
@given_forms
def test_every_given_box_comes_back_classified(ours, modules):
    heads = build_heads(*ours, *modules)
    proposals = given()
    tiny = proposals[1].proposal_boxes.tensor
    tiny[0, 2:] = tiny[0, :2] + 0.5
    found = head_detections(heads, proposals)
    for result, asked in zip(found, proposals, strict=True):
        assert torch.equal(result.region_ids, asked.region_ids)
        assert torch.equal(result.pred_boxes.tensor, asked.proposal_boxes.tensor)
        assert result.class_probs.shape == (len(asked), NUM_CLASSES)  # no background
        torch.testing.assert_close(result.class_probs.sum(1), torch.ones(len(asked)))
        assert torch.equal(result.pred_classes, result.class_probs.argmax(1))
        predictions = {n for n in result.get_fields() if n.startswith("class_probs_")}
        expected = {"class_probs_plain"}
        if modules != OFF:
            expected |= {"class_probs_final", *(f"class_probs_local{k}" for k in (1, 2, 3))}
        if not modules:
            expected |= {f"class_probs_global{k}" for k in (1, 2, 3)}
        assert predictions == expected


@given_forms
def test_given_boxes_are_neither_sampled_nor_regressed(ours):
    heads = build_heads(*ours, *OFF)
    proposals = given((40, 50))  # more than the sample of 32
    logits = calls(heads.box_predictor)
    result = head_losses(heads, proposals)
    assert result.keys() == {"loss_cls"}
    labels = torch.cat([p.gt_classes for p in proposals])
    scores = logits[0][1][0]
    assert len(scores) == 90
    torch.testing.assert_close(result["loss_cls"], F.cross_entropy(scores[:, :NUM_CLASSES], labels))
    result["loss_cls"].backward()
    for name, parameter in heads.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not heads.box_predictor.bbox_pred.weight.requires_grad


def test_given_boxes_train_the_reasoning():
    heads = build_heads(*GIVEN)
    result = head_losses(heads, given())
    assert result.keys() == {"loss_cls"} | BOTH
    sum(result.values()).backward()
    assert all(p.grad is not None for p in heads.parameters() if p.requires_grad)


def test_no_given_boxes_in_an_image():
    heads = build_heads(*GIVEN)
    assert [len(r) for r in head_detections(heads, given((0, 2)))] == [0, 2]
    sum(head_losses(heads, given((0, 0))).values()).backward()


# ---- options ----


@pytest.mark.parametrize(
    "options",
    [
        ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
        ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True, *MASK),
        (*MASK, *KEYPOINT),
    ],
    ids=["class-agnostic", "predicted boxes", "mask keypoint"],
)
def test_stock_options_keep_working(options):
    heads = build_heads(*REASONING, *options)
    assert all(v.isfinite() for v in head_losses(heads).values())
    assert all(len(d) > 0 for d in head_detections(heads))


def test_bfloat16_autocast_stays_close():
    heads = build_heads(*REASONING).eval()
    seen = calls(heads.mechanism.reasoner)
    head_detections(heads)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        head_detections(heads)
    expected, actual = (result.final for _, result in seen)
    assert (actual - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (key("MODULES", ["both"]), r"MODULES must be .* 'local', 'global', .*, got \['both'\]"),
        (key("LOCAL.IN_FEATURE", "p9"), r"LOCAL.IN_FEATURE must be one of '', 'p2', .*, got 'p9'"),
        (("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True), r"set MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE"),
    ],
    ids=str,
)
def test_wrong_options_are_named_at_build_time(options, message):
    with pytest.raises(ValueError, match=message):
        build_heads(*REASONING, *options)


def test_a_prediction_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"TEST_PREDICTION must be one of 'plain', .*'global'"):
        build_heads(*REASONING, *LOCAL, *key("TEST_PREDICTION", "global"))


def test_a_graph_of_other_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"graph.npz has 5 classes, .*NUM_CLASSES is 4"):
        build_heads(*REASONING, *graph_file(tmp_path), "MODEL.ROI_HEADS.NUM_CLASSES", 4)


def test_a_box_outside_of_every_cell_is_finite():
    heads = build_heads(*REASONING)
    proposals = scattered((3, 3))
    proposals[0].proposal_boxes = Boxes(torch.tensor([[1.0, 1, 3, 3]] * 3))
    assert all(d.scores.isfinite().all() for d in head_detections(heads, proposals))
    assert SIZES[0] == proposals[0].image_size


@pytest.mark.parametrize("size", [(61, 93), (64, 96)])
def test_backbones_that_round_their_sizes_down_work(size):
    heads = build_heads(*REASONING)
    height, width = size
    features = {f"p{k}": torch.randn(2, 32, height // 2**k, width // 2**k) for k in (2, 3, 4, 5)}
    proposals = scattered()
    for per_image in proposals:
        per_image._image_size = size  # the last cell of the image is not in the map
        per_image.proposal_boxes.clip(size)
    result = head_losses(heads, proposals, features=features)
    assert all(value.isfinite() for value in result.values())
    assert all(len(found) for found in head_detections(heads, proposals, features))
