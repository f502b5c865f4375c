import math

import pytest
import torch

from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.duplicates.candidates import Candidates, select_candidates
from tests.layers.reference_duplicate_removal import sorted_regions


def random_log_scores(n: int, classes: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes + 1, generator=generator, dtype=torch.float64)
    return logits.log_softmax(dim=1)[:, :-1]


def triples(candidates: Candidates) -> list[tuple[int, int, int]]:
    rows = zip(candidates.region, candidates.label, candidates.rank, strict=True)
    return [(int(n), int(c), int(r)) for n, c, r in rows]


@pytest.mark.parametrize("first_n", [1, 3, 100])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.2])
def test_equals_sorting_class_by_class(first_n, threshold):
    splits = (7, 0, 1, 5)
    log_scores = random_log_scores(13, 4)
    log_scores = (log_scores * 4).round() / 4  # many ties
    candidates = select_candidates(log_scores, splits, first_n=first_n, score_threshold=threshold)
    expected, sizes, counts, begin = [], [], [], 0
    for n in splits:
        before = len(expected)
        for label in range(4):
            scores = log_scores[begin : begin + n, label].exp().tolist()
            regions = sorted_regions(scores, first_n, threshold)
            expected += [(begin + row, label, rank) for rank, row in enumerate(regions)]
            sizes += [len(regions)] if regions else []
        counts.append(len(expected) - before)
        begin += n
    assert triples(candidates) == expected
    assert candidates.sizes == tuple(sizes) and candidates.splits == tuple(counts)
    assert candidates.region_splits == splits and candidates.first_n == first_n
    assert torch.equal(candidates.log_scores, log_scores[candidates.region, candidates.label])
    assert [len(part) for part in candidates.split(candidates.rank)] == counts


def test_equal_scores_keep_their_order():
    log_scores = torch.full((40, 2), 0.25).log()
    candidates = select_candidates(log_scores, [40], first_n=25)
    assert candidates.region.tolist() == [*range(25), *range(25)]


def test_threshold_is_exclusive_and_zero_scores_take_no_part():
    scores = torch.tensor([[0.0], [0.5], [0.25], [0.0]], dtype=torch.float64)
    assert select_candidates(scores.log(), [4], score_threshold=0.0).region.tolist() == [1, 2]
    at = select_candidates(scores.log(), [4], score_threshold=0.25)
    assert at.region.tolist() == [1]


def test_gradient_reaches_the_chosen_scores_only():
    log_scores = random_log_scores(6, 3).requires_grad_()
    candidates = select_candidates(log_scores, [6], first_n=2)
    candidates.log_scores.sum().backward()
    expected = torch.zeros(6, 3, dtype=torch.float64)
    expected[candidates.region, candidates.label] = 1
    assert torch.equal(log_scores.grad, expected)


def test_best_classes_of_each_image():
    scores = torch.tensor(
        [[0.1, 0.5, 0.2, 0.05], [0.3, 0.0, 0.2, 0.05], [0.1, 0.2, 0.3, 0.35]], dtype=torch.float64
    )
    labels = select_candidates(scores.log(), [2, 1], max_classes=2)
    assert [part.unique().tolist() for part in labels.split(labels.label)] == [[0, 1], [2, 3]]
    assert labels.sizes == (2, 1, 1, 1)  # regions of a chosen class all stay
    kept = select_candidates(
        scores.log(),
        [2, 1],
        max_classes=2,
        keep_classes=[torch.tensor([3, 3]), torch.tensor([0])],
    )
    assert [part.unique().tolist() for part in kept.split(kept.label)] == [[1, 3], [0, 3]]


def test_unlikely_classes_of_an_image_take_no_part():
    scores = torch.tensor([
        [0.30, 0.009, 0.010, 0.001], [0.40, 0.002, 0.004, 0.002],
        [0.008, 0.006, 0.002, 0.001], [0.001, 0.008, 0.002, 0.003],
    ], dtype=torch.float64)  # fmt: skip

    def labels(splits, threshold):
        c = select_candidates(scores.log(), splits, score_threshold=0, class_threshold=threshold)
        return [part.unique().tolist() for part in c.split(c.label)]

    # Released: max s0 >= min(0.01, the highest of the image); regions of such a class all stay.
    assert labels([2, 0, 2], 0.01 - 1e-9) == [[0, 2], [], [0, 1]]
    assert labels([2, 0, 2], 0.05) == [[0], [], [0, 1]]
    assert labels([2, 0, 2], 0.0) == [[0, 1, 2, 3], [], [0, 1, 2, 3]]
    assert labels([4], 0.05) == [[0]]
    for threshold, wanted in ((0.01, 2), (0.0, 2)):
        c = select_candidates(scores.log(), [2, 2], class_threshold=threshold, first_n=2)
        assert int((c.label == 0)[: c.splits[0]].sum()) == wanted


def test_nan_makes_no_class_likely():
    scores = torch.tensor([[0.3, 0.001], [torch.nan, torch.nan]])
    c = select_candidates(scores.log(), [2], score_threshold=0, class_threshold=0.01)
    assert triples(c) == [(0, 0, 0)]


def test_max_classes_above_all_changes_nothing():
    log_scores = random_log_scores(9, 5)
    assert triples(select_candidates(log_scores, [4, 5], max_classes=5)) == triples(
        select_candidates(log_scores, [4, 5])
    )


def test_nothing_above_the_threshold():
    for n in (0, 3):
        candidates = select_candidates(torch.full((n, 2), -20.0), [n, 0], max_classes=1)
        assert len(candidates) == 0 and candidates.sizes == () and candidates.splits == (0, 0)


def test_boxes_of_the_candidates():
    boxes = torch.arange(24.0).reshape(2, 3, 4).requires_grad_()
    candidates = select_candidates(random_log_scores(2, 3), [2])
    own = candidates.boxes(boxes)
    assert torch.equal(own, boxes.detach()[candidates.region, candidates.label])
    assert not own.requires_grad
    assert torch.equal(candidates.boxes(boxes[:, 0]), boxes.detach()[candidates.region, 0])


def test_half_precision_scores_become_float32():
    log_scores = random_log_scores(4, 2).to(torch.bfloat16)
    assert select_candidates(log_scores, [4]).log_scores.dtype == torch.float32


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("first_n", wrong) for wrong in (0, -1, None)),
        *(("max_classes", wrong) for wrong in (0, -1)),
        *(("score_threshold", wrong) for wrong in (-0.1, 1.0, math.nan, None)),
        *(("class_threshold", wrong) for wrong in (-0.1, 1.0, math.nan)),
    ],
)
def test_wrong_arguments_are_named(argument, value):
    with pytest.raises(ArgumentError) as caught:
        select_candidates(torch.zeros(3, 2), [3], **{argument: value})
    assert [(w.argument, w.value) for w in caught.value.wrong] == [(argument, value)]


@pytest.mark.parametrize(
    ("scores", "arguments", "message"),
    [
        (torch.zeros(3, 2), dict(splits=[2]), r"must be \(2, C\) for these splits, got \(3, 2\)"),
        (torch.full((3, 2), 0.5), {}, "must be logarithms of probabilities, at most 0, got 0.5"),
        (torch.zeros(3, 2), dict(keep_classes=[]), "keep_classes names 0 images, splits 1"),
    ],
)
def test_wrong_inputs_are_named(scores, arguments, message):
    with pytest.raises(ValueError, match=message):
        select_candidates(scores, **{"splits": [3], **arguments})


def test_scores_that_are_nan_are_no_candidates():
    # Whoever trains hears of them from the stock losses, which are NaN
    log_scores = random_log_scores(9, 3)
    expected = select_candidates(log_scores[:5], [5, 0])
    log_scores[5:] = torch.nan
    candidates = select_candidates(log_scores, [5, 4])
    assert triples(candidates) == triples(expected) and candidates.splits == expected.splits
