import math

import pytest
import torch

from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.duplicates.candidates import select_candidates
from relation_heads.layers.duplicates.losses import (
    THRESHOLDS,
    duplicate_loss,
    duplicate_targets,
    final_scores,
)
from tests.layers.reference_duplicate_removal import class_loss, class_targets


def crowd(n: int, objects: int, classes: int, generator: torch.Generator):
    """Boxes around objects, of which two coincide; integers, so that IoUs repeat."""
    gt = torch.randint(0, 12, (objects, 2), generator=generator)
    gt = torch.cat([gt, gt + torch.randint(8, 14, (objects, 2), generator=generator)], dim=1)
    gt[1:2] = gt[:1]
    around = gt[torch.randint(objects, (n,), generator=generator)]
    boxes = around + torch.randint(-2, 3, (n, 4), generator=generator)
    labels = torch.randint(classes, (objects,), generator=generator)
    labels[1:2] = labels[:1]
    return boxes.double(), gt.double(), labels


def random_log_scores(n: int, classes: int, generator: torch.Generator) -> torch.Tensor:
    logits = torch.randn(n, classes + 1, generator=generator, dtype=torch.float64)
    return logits.log_softmax(dim=1)[:, :-1]


@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_targets_and_loss_equal_the_slow_reference(seed, class_specific):
    generator = torch.Generator().manual_seed(seed)
    classes, first_n, splits = 3, 12, (30, 9, 4)
    images = [crowd(n, g, classes, generator) for n, g in zip(splits, (6, 2, 1), strict=True)]
    images[2] = (images[2][0], torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    boxes = torch.cat([image[0] for image in images])
    if class_specific:
        shift = torch.randint(-1, 2, (len(boxes), classes, 4), generator=generator)
        boxes = boxes[:, None] + shift
    log_scores = random_log_scores(len(boxes), classes, generator).requires_grad_()
    candidates = select_candidates(log_scores, splits, first_n=first_n, score_threshold=0.0)
    logits = torch.randn(len(candidates), 5, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    targets = duplicate_targets(candidates, boxes, [i[1] for i in images], [i[2] for i in images])

    own, row, expected, loss, smoothed = candidates.boxes(boxes), 0, [], 0.0, 0.0
    for b, (_, gt, gt_labels) in enumerate(images):
        for label in range(classes):
            size = min(first_n, splits[b])
            group = slice(row, row + size)
            s0 = log_scores[candidates.region[group], label].exp()
            objects = gt[gt_labels == label].tolist()
            y = class_targets(own[group].tolist(), s0.tolist(), objects, THRESHOLDS)
            expected += y
            y = torch.tensor(y, dtype=torch.float64)
            loss = loss + class_loss(s0, logits[group], y, epsilon=0.0)
            smoothed += float(class_loss(s0, logits[group], y))
            row += size
    assert row == len(candidates)
    assert targets.double().tolist() == expected and targets.any()
    loss, normalizer = loss / (first_n * 5 * 3), first_n * 5 * 3
    ours = duplicate_loss(candidates, logits, targets)
    torch.testing.assert_close(ours, loss, rtol=1e-10, atol=0)
    assert ours.item() == pytest.approx(smoothed / normalizer, rel=1e-6)  # the released 1e-8
    for mine, slow in zip(
        torch.autograd.grad(ours, [log_scores, logits]),
        torch.autograd.grad(loss, [log_scores, logits]),
        strict=True,
    ):
        torch.testing.assert_close(mine, slow, rtol=1e-10, atol=1e-12)


def targets_of(boxes, scores, gt, thresholds=THRESHOLDS):
    """One image, one class; in the order of the boxes."""
    candidates = select_candidates(torch.tensor(scores)[:, None].log(), [len(boxes)])
    gt = torch.tensor(gt, dtype=torch.float32).reshape(-1, 4)
    found = duplicate_targets(
        candidates,
        torch.tensor(boxes, dtype=torch.float32),
        [gt],
        [torch.zeros(len(gt), dtype=torch.long)],
        thresholds,
    )
    return found[candidates.region.argsort()].int().tolist()


def test_the_highest_score_wins_not_the_best_overlap():
    boxes = [[0, 0, 99, 99], [0, 0, 99, 89], [0, 0, 99, 74]]  # IoU 1, .9, .75
    found = targets_of(boxes, [0.3, 0.5, 0.9], [[0, 0, 99, 99]])
    assert found == [[0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [1, 1, 1, 0, 0]]  # .9 is not above .9


def test_threshold_is_strict_and_widths_have_the_plus_one():
    object_ = [[0, 0, 9, 19]]  # 10 x 20
    assert targets_of([[0, 0, 9, 9]], [0.5], object_, [0.5, 0.499]) == [[0, 1]]
    assert targets_of([[0, 0, 9, 10]], [0.5], object_, [0.5, 0.55]) == [[1, 0]]


def test_a_box_belongs_to_the_object_it_overlaps_most():
    near, far = [0, 0, 99, 99], [0, 10, 99, 109]
    boxes = [[0, 1, 99, 100], [0, 4, 99, 103]]  # both nearer to `near`, also above .5 for `far`
    assert targets_of(boxes, [0.9, 0.8], [near, far], [0.5]) == [[1], [0]]
    boxes[1] = [0, 6, 99, 105]
    assert targets_of(boxes, [0.9, 0.8], [near, far], [0.5]) == [[1], [1]]
    middle = [[0, 5, 99, 104]]  # equal overlap: the first object
    assert targets_of([*middle, near], [0.9, 0.8], [near, far], [0.5]) == [[1], [0]]
    assert targets_of([*middle, near], [0.9, 0.8], [far, near], [0.5]) == [[1], [1]]


def test_equal_scores_the_first_box_wins():
    assert targets_of([[0, 0, 9, 9]] * 3, [0.4] * 3, [[0, 0, 9, 9]], [0.5]) == [[1], [0], [0]]


def test_no_ground_truth():
    assert targets_of([[0, 0, 9, 9]] * 2, [0.5, 0.4], []) == [[0] * 5] * 2


def test_only_objects_of_the_same_image_and_class_count():
    box = torch.tensor([[0.0, 0, 9, 9]])
    log_scores = torch.tensor([[0.4, 0.5], [0.4, 0.5]]).log()
    candidates = select_candidates(log_scores, [1, 1])
    nothing = torch.zeros(0, dtype=torch.long)
    found = duplicate_targets(
        candidates, box.repeat(2, 1), [box[:0], box], [nothing, torch.tensor([1])], [0.5]
    )
    assert found[:, 0].tolist() == [False, False, False, True]


def test_loss_by_hand():
    """s0 = 1/2, s1 = 1/2: -4 log(1/4) for the right box, -log(3/4) for the other."""
    candidates = select_candidates(torch.full((2, 1), 0.5).log(), [2], first_n=10)
    targets = torch.tensor([[True], [False]])
    expected = (-4 * torch.tensor(0.25).log() - torch.tensor(0.75).log()) / 10
    torch.testing.assert_close(duplicate_loss(candidates, torch.zeros(2, 1), targets), expected)


@pytest.mark.parametrize("logit", [-200.0, 0.0, 15.0, 40.0, 200.0])
@pytest.mark.parametrize("margin", [-100.0, -16.0, 0.0, 8.0, 12.0, 30.0, 200.0])
@pytest.mark.parametrize("target", [True, False])
def test_float32_loss_of_certain_scores(margin, logit, target):
    """Softmax scores with any margin: the float64 loss, and gradients that stay bounded."""
    loss, gradients = {}, {}
    for dtype in (torch.float32, torch.float64):
        class_logits = torch.tensor([[margin, 0.0]], dtype=dtype, requires_grad=True)
        logits = torch.tensor([[logit]], dtype=dtype, requires_grad=True)
        log_scores = class_logits.log_softmax(dim=1)[:, :1]
        candidates = select_candidates(log_scores, [1], first_n=1, score_threshold=0.0)
        value = duplicate_loss(candidates, logits, torch.tensor([[target]]), positive_weight=1.0)
        loss[dtype] = value.item()
        gradients[dtype] = torch.autograd.grad(value, [class_logits, logits])
    if not target and margin >= 30 and logit >= 40:  # s0 rounds to 1: s1 alone decides
        assert loss[torch.float32] == pytest.approx(min(logit, 87.3), rel=0.01)
    else:
        assert loss[torch.float32] == pytest.approx(loss[torch.float64], rel=0.01)
    for single in gradients[torch.float32]:
        assert single.abs().max() <= 1.001
    if margin <= 8 and logit < 200:
        for single, wide in zip(*gradients.values(), strict=True):
            torch.testing.assert_close(single.double(), wide, rtol=1e-2, atol=1e-40)


def test_a_certain_duplicate_still_learns():
    """s0 = 1 and s1 near 1 where there should be 0: the gradient of s1 does not vanish."""
    candidates = select_candidates(torch.zeros(1, 1), [1], first_n=1)
    logits = torch.full((1, 1), 40.0, requires_grad=True)
    loss = duplicate_loss(candidates, logits, torch.zeros(1, 1, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(40) and logits.grad.item() == pytest.approx(1)


def test_loss_is_float32_for_low_precision_logits():
    candidates = select_candidates(torch.full((3, 1), 0.3).log(), [3])
    loss = duplicate_loss(candidates, torch.randn(3, 5).bfloat16(), torch.zeros(3, 5).bool())
    assert loss.dtype == torch.float32


def test_final_scores():
    candidates = select_candidates(torch.tensor([[0.8], [0.5]], dtype=torch.float64).log(), [2])
    s1 = torch.tensor([[0.9, 0.5], [0.2, 0.4]], dtype=torch.float64)
    expected = torch.tensor([0.8 * 0.7, 0.5 * 0.3], dtype=torch.float64)
    torch.testing.assert_close(final_scores(candidates, s1.logit()), expected)


def test_nothing_detected():
    candidates = select_candidates(torch.zeros(0, 3), [0, 0])
    gt = [torch.ones(2, 4), torch.zeros(0, 4)]
    labels = [torch.zeros(2, dtype=torch.long), torch.zeros(0, dtype=torch.long)]
    targets = duplicate_targets(candidates, torch.zeros(0, 4), gt, labels)
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = duplicate_loss(candidates, logits, targets)
    loss.backward()
    assert targets.shape == (0, 5) and loss == 0
    assert final_scores(candidates, logits).shape == (0,)


@pytest.mark.parametrize("thresholds", [[0.5, 1.0], [0.0], [], [math.nan], [None], ["x", "y"]])
def test_wrong_thresholds_are_named(thresholds):
    with pytest.raises(ArgumentError) as caught:
        targets_of([[0, 0, 9, 9]], [0.5], [], thresholds)
    assert [(w.argument, w.value) for w in caught.value.wrong] == [("thresholds", thresholds)]


@pytest.mark.parametrize("weight", [-1, math.nan, None])
def test_wrong_weights_are_named(weight):
    candidates = select_candidates(torch.zeros(0, 3), [0])
    empty = torch.zeros(0, 5)
    with pytest.raises(ArgumentError) as caught:
        duplicate_loss(candidates, empty, empty.bool(), positive_weight=weight)
    assert [w.argument for w in caught.value.wrong] == ["positive_weight"]


def test_missing_ground_truth_is_named():
    candidates = select_candidates(torch.zeros(0, 3), [0, 0])
    with pytest.raises(ValueError, match="gt_boxes names 1 images, gt_classes 2, the candidates 2"):
        duplicate_targets(candidates, torch.zeros(0, 4), [torch.zeros(0, 4)], [torch.zeros(0)] * 2)
