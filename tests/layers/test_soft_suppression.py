"""Soft-NMS against a loop over single boxes in float64; its hard limit against torchvision."""

import math

import pytest
import torch
from torchvision.ops import batched_nms

from relation_heads.layers import soft_nms, soft_nms_per_class
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.duplicates import soft_suppression
from tests.layers.tracing import assert_traces

DECAYS = [
    {"method": "gaussian", "sigma": 0.5},
    {"method": "gaussian", "sigma": 0.1},
    {"method": "linear", "iou_threshold": 0.3},
    {"method": "linear", "iou_threshold": 0.0},
]


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


def one_class(boxes, scores, rows, method, sigma, iou_threshold, score_threshold):
    """The loop of the paper for the boxes `rows`: [(new score, row)] in the order of taking."""
    left = {row: scores[row] for row in rows if scores[row] >= score_threshold}
    taken = []
    while left:
        top = max(left, key=lambda row: (left[row], -row))
        taken.append((left.pop(top), top))
        for row in list(left):
            overlap = iou(boxes[top], boxes[row])
            if method == "gaussian":
                left[row] *= math.exp(-(overlap**2) / sigma)
            elif overlap > iou_threshold:
                left[row] *= 1 - overlap
            if left[row] < score_threshold:
                del left[row]
    return taken


def reference(
    boxes,
    scores,
    groups,
    *,
    method="gaussian",
    sigma=0.5,
    iou_threshold=0.3,
    score_threshold=0.001,
    max_detections=None,
):
    boxes, scores, groups = boxes.double().tolist(), scores.double().tolist(), groups.tolist()
    taken, rows_of = [], {}
    for row, group in enumerate(groups):
        rows_of.setdefault(group, []).append(row)
    for rows in rows_of.values():
        taken += one_class(boxes, scores, rows, method, sigma, iou_threshold, score_threshold)
    taken.sort(key=lambda pair: (-pair[0], pair[1]))
    taken = taken[:max_detections]
    rows = torch.tensor([row for _, row in taken], dtype=torch.int64)
    return rows, torch.tensor([score for score, _ in taken], dtype=torch.float64)


def random_boxes(n: int, generator: torch.Generator, clusters: int = 4) -> torch.Tensor:
    """Boxes around a few objects, so that most of them overlap."""
    objects = torch.rand(clusters, 2, dtype=torch.float64, generator=generator) * 60
    centers = objects[torch.randint(clusters, (n,), generator=generator)]
    centers = centers + torch.randn(n, 2, dtype=torch.float64, generator=generator) * 4
    sizes = 5 + torch.rand(n, 2, dtype=torch.float64, generator=generator) * 20
    return torch.cat([centers - sizes / 2, centers + sizes / 2], dim=1)


def random_case(n: int, num_groups: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return (
        random_boxes(n, generator),
        torch.rand(n, dtype=torch.float64, generator=generator),
        torch.randint(num_groups, (n,), generator=generator),
    )


def assert_equal(result, expected):
    assert result[0].tolist() == expected[0].tolist()
    torch.testing.assert_close(result[1], expected[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("decay", DECAYS, ids=str)
@pytest.mark.parametrize("score_threshold", [0.0, 0.001, 0.2])
@pytest.mark.parametrize(("n", "num_groups"), [(60, 1), (150, 5), (300, 3000)])
def test_equals_the_loop_of_the_paper(n, num_groups, score_threshold, decay):
    case = random_case(n, num_groups, seed=n)
    for max_detections in (None, 1, 7, 1000):
        options = {
            **decay,
            "score_threshold": score_threshold,
            "max_detections": max_detections,
        }
        assert_equal(soft_nms(*case, **options), reference(*case, **options))


def test_golden_example_of_the_released_code():
    """The released code measures widths as x2 - x1 + 1: here, as one more pixel."""
    boxes = torch.tensor(
        [[10, 10, 59, 59], [12, 12, 61, 61], [40, 40, 99, 99], [200, 200, 249, 249]],
        dtype=torch.float64,
    ) + torch.tensor([0, 0, 1, 1])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.3], dtype=torch.float64)
    keep, new_scores = soft_nms(boxes, scores, torch.zeros(4, dtype=torch.int64), sigma=0.6)
    assert keep.tolist() == [0, 2, 3, 1]
    expected = torch.tensor([0.9, 0.694278, 0.3, 0.233925], dtype=torch.float64)
    torch.testing.assert_close(new_scores, expected, rtol=0, atol=5e-7)


def test_linear_by_hand():
    """IoU of the first two is 1/3: above a threshold of 0.3, not above one of 1/3."""
    boxes = torch.tensor([[0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 10]], dtype=torch.float64)
    scores = torch.tensor([0.9, 0.6, 0.5], dtype=torch.float64)
    groups = torch.zeros(3, dtype=torch.int64)
    keep, new_scores = soft_nms(boxes, scores, groups, method="linear")
    assert keep.tolist() == [0, 1]  # the third is the first again: 0.5 (1 - 1)
    torch.testing.assert_close(new_scores[1].item(), 0.4)
    _, new_scores = soft_nms(boxes, scores, groups, method="linear", iou_threshold=1 / 3)
    assert new_scores.tolist() == [0.9, 0.6]


def test_a_decayed_box_decays_with_its_new_rank():
    """Iterative: B falls below C before it is taken, so C decays B and not the other way round."""
    boxes = torch.tensor([[0, 0, 10, 10], [0, 1, 10, 11], [0, 7, 10, 17]], dtype=torch.float64)
    scores = torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64)
    keep, new_scores = soft_nms(boxes, scores, torch.zeros(3, dtype=torch.int64))
    assert keep.tolist() == [0, 2, 1]
    ab, ac, bc = 90 / 110, 30 / 170, 40 / 160
    c = 0.7 * math.exp(-(ac**2) / 0.5)
    b = 0.8 * math.exp(-(ab**2) / 0.5) * math.exp(-(bc**2) / 0.5)
    torch.testing.assert_close(new_scores.tolist(), [0.9, c, b])


def test_a_tiny_sigma_is_hard_nms():
    boxes, scores, groups = random_case(400, 6, seed=3)
    boxes = boxes.round()  # pixels: what overlaps has an IoU far above sqrt(sigma)
    keep, new_scores = soft_nms(boxes, scores, groups, sigma=1e-12)
    hard = batched_nms(boxes, scores, groups, 0.0)
    hard = hard[scores[hard] >= 0.001]
    assert keep.tolist() == hard.tolist()
    assert torch.equal(new_scores, scores[keep])


@pytest.mark.parametrize("decay", DECAYS, ids=str)
def test_equal_scores_are_taken_from_the_lowest_row_on(decay):
    generator = torch.Generator().manual_seed(1)
    boxes = random_boxes(12, generator)[torch.randint(12, (90,), generator=generator)].round()
    boxes[::9, 2] = boxes[::9, 0]  # boxes without area
    scores = torch.randint(1, 4, (90,), generator=generator).double() / 4
    groups = torch.randint(3, (90,), generator=generator)
    for options in (decay, {**decay, "score_threshold": 0.0}, {**decay, "max_detections": 20}):
        assert_equal(
            soft_nms(boxes, scores, groups, **options),
            reference(boxes, scores, groups, **options),
        )


def test_rows_without_overlap_and_with_equal_scores_keep_their_order():
    boxes = torch.arange(0.0, 80.0, 10)[:, None] + torch.tensor([0.0, 0.0, 5.0, 5.0])
    groups = torch.tensor([3, 0, 3, 1, 1, 0, 3, 2])
    keep, new_scores = soft_nms(boxes, torch.full((8,), 0.5), groups)
    assert keep.tolist() == list(range(8))
    assert new_scores.tolist() == [0.5] * 8
    assert soft_nms(boxes, torch.full((8,), 0.5), groups, max_detections=3)[0].tolist() == [0, 1, 2]


def test_boxes_without_area_neither_decay_nor_are_decayed():
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10], [2, 8, 7, 8], [9, 9, 1, 1]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    keep, new_scores = soft_nms(boxes, scores, torch.zeros(5, dtype=torch.int64))
    assert keep.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(new_scores, scores)


@pytest.mark.parametrize("decay", DECAYS, ids=str)
def test_dropping_low_scores_early_changes_nothing_else(decay):
    """Bit for bit: the result without a threshold or a limit, cut afterwards."""
    case = random_case(500, 4, seed=5)
    rows, new_scores = soft_nms(*case, **decay, score_threshold=0.0)
    assert sorted(rows.tolist()) == list(range(500))
    for threshold in (0.001, 0.05, 0.3):
        above = new_scores >= threshold
        result = soft_nms(*case, **decay, score_threshold=threshold)
        assert torch.equal(result[0], rows[above])
        assert torch.equal(result[1], new_scores[above])
    for limit in (1, 3, 10, 100, 499):
        result = soft_nms(*case, **decay, score_threshold=0.0, max_detections=limit)
        assert torch.equal(result[0], rows[:limit])
        assert torch.equal(result[1], new_scores[:limit])


def test_a_score_at_the_threshold_stays():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]], dtype=torch.float64)
    scores = torch.tensor([0.25, 0.5], dtype=torch.float64)
    groups = torch.zeros(2, dtype=torch.int64)
    assert soft_nms(boxes, scores, groups, score_threshold=0.25)[0].tolist() == [1, 0]
    assert soft_nms(boxes, scores, groups, score_threshold=0.250001)[0].tolist() == [1]


def test_one_box_and_none():
    box, score, group = torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0.4]), torch.tensor([2999])
    keep, new_scores = soft_nms(box, score, group, max_detections=100)
    assert (keep.tolist(), new_scores.tolist()) == ([0], score.tolist())
    for options in ({}, {"max_detections": 100}):
        for empty in (
            soft_nms(box[:0], score[:0], group[:0], **options),
            soft_nms(box, score, group, score_threshold=0.5, **options),
        ):
            assert [len(x) for x in empty] == [0, 0]
            assert empty[0].dtype == torch.int64
    empty = soft_nms_per_class(torch.zeros(0, 4), torch.zeros(0, 80), max_detections=10)
    assert [len(x) for x in empty] == [0, 0, 0]


def test_a_batch_of_images_is_every_image_alone():
    images = [random_case(40, 3, seed) for seed in range(3)]
    boxes, scores, classes = (torch.cat(x) for x in zip(*images, strict=True))
    image = torch.arange(3).repeat_interleave(40)
    keep, new_scores = soft_nms(boxes, scores, image * 3 + classes)
    for b, case in enumerate(images):
        expected = soft_nms(*case)
        mine = image[keep] == b
        assert torch.equal(keep[mine] - 40 * b, expected[0])
        assert torch.equal(new_scores[mine], expected[1])


def test_dtypes_and_no_gradient():
    boxes, scores, groups = random_case(50, 2)
    half = scores.half().requires_grad_()
    keep, new_scores = soft_nms(boxes.half(), half, groups)
    assert new_scores.dtype == torch.float32
    assert not new_scores.requires_grad
    expected = soft_nms(boxes.half().float(), half.detach().float(), groups)
    assert torch.equal(keep, expected[0])
    tenth = torch.tensor([0.1], dtype=torch.float16)  # 0.09998
    assert len(soft_nms(boxes[:1], tenth, groups[:1], score_threshold=0.1)[0]) == 0
    inputs = [x.clone() for x in (boxes, scores)]
    soft_nms(boxes, scores, groups)
    assert torch.equal(boxes, inputs[0])
    assert torch.equal(scores, inputs[1])


@pytest.mark.parametrize("shared", [True, False], ids=["(R, 4)", "(R, C, 4)"])
@pytest.mark.parametrize(("regions", "classes"), [(40, 1), (30, 6), (3, 3000)])
def test_per_class_is_the_flat_form(regions, classes, shared):
    generator = torch.Generator().manual_seed(classes)
    scores = torch.randn(regions, classes, dtype=torch.float64, generator=generator).mul(2)
    scores = scores.softmax(1).mul(64).round().div(64)  # many equal ones
    boxes = random_boxes(regions if shared else regions * classes, generator, clusters=2)
    every = boxes[:, None].expand(regions, classes, 4) if shared else boxes
    flat = every.reshape(-1, 4), scores.flatten(), torch.arange(classes).repeat(regions)
    if not shared:
        boxes = boxes.reshape(regions, classes, 4)
    for options in (
        {"score_threshold": 1 / 64},
        {"score_threshold": 0.01, "sigma": 0.1, "max_detections": 5},
        {"score_threshold": 0.0, "max_detections": 50},
        {"score_threshold": 0.01, "method": "linear", "iou_threshold": 0.5},
    ):
        region, category, new_scores = soft_nms_per_class(boxes, scores, **options)
        rows, expected = reference(*flat, **options)
        assert_equal((region * classes + category, new_scores), (rows, expected))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("method", "hard"),
        *(("sigma", wrong) for wrong in (0.0, math.nan, math.inf, None)),
        ("iou_threshold", 1.5),
        ("score_threshold", -0.1),
        ("score_threshold", math.nan),
        ("max_detections", 0),
    ],
)
def test_bad_options_are_named_even_without_boxes(argument, value):
    options, groups = {argument: value}, torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ArgumentError) as flat:
        soft_nms(torch.zeros(0, 4), torch.zeros(0), groups, **options)
    with pytest.raises(ArgumentError) as per_class:
        soft_nms_per_class(torch.zeros(0, 4), torch.zeros(0, 3), **options)
    for caught in (flat, per_class):
        assert [(w.argument, w.value) for w in caught.value.wrong] == [(argument, value)]


def test_bad_inputs_are_named():
    boxes, scores, groups = random_case(4, 2)
    bad = [
        ((boxes[:, :3], scores, groups), r"boxes must be .*got torch.float64 of shape \(4, 3\)"),
        ((boxes.long(), scores, groups), "boxes must be floating point .*got torch.int64"),
        ((boxes, scores[:3], groups), r"scores must be .* \(4,\), one per box, .*\(3,\)"),
        ((boxes, scores.long(), groups), "scores must be floating point"),
        ((boxes, scores, groups.int()), "groups must be int64 .*got torch.int32"),
        ((boxes, scores, groups[:1]), r"groups must be .*of shape \(1,\)"),
        ((boxes.clone().fill_diagonal_(math.inf), scores, groups), "boxes must be finite"),
        ((boxes.clone().fill_diagonal_(-math.inf), scores, groups), "boxes must be finite"),
        ((boxes, scores * math.nan, groups), "scores must be finite"),
    ]
    for case, sentence in bad:
        with pytest.raises(ValueError, match=sentence):
            soft_nms(*case)
    for shape in ((4, 8), (4, 3, 4), (3, 4)):
        with pytest.raises(ValueError, match=r"boxes must be \(R, 4\) or \(R, C, 4\)"):
            soft_nms_per_class(torch.zeros(shape), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="scores must be finite"):
        soft_nms_per_class(boxes, torch.full((4, 2), math.nan))


def case_with_scores(regions: int, classes: int):
    generator = torch.Generator().manual_seed(regions)
    boxes = random_boxes(regions, generator)
    scores = torch.rand(regions, classes, dtype=torch.float64, generator=generator)
    return boxes, scores


@pytest.mark.parametrize(
    "options",
    [{}, {"max_detections": 5}, {"method": "linear", "score_threshold": 0.05}],
    ids=str,
)
def test_a_trace_runs_at_any_number_of_boxes(options):
    cases = [case_with_scores(n, 3) for n in (7, 0, 1, 60)]
    assert_traces(lambda *case: soft_nms_per_class(*case, **options), *cases)
    flat = [random_case(n, 4, seed=n) for n in (7, 0, 1, 60)]
    assert_traces(lambda *case: soft_nms(*case, **options), *flat)


def test_function_and_module_can_both_be_imported():
    assert soft_suppression.soft_nms is soft_nms
