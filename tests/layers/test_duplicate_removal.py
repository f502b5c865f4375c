import copy
import math
import pickle

import pytest
import torch

from relation_heads.layers import sinusoidal_embedding
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.duplicates import gates as duplicate_gates
from relation_heads.layers.duplicates import network as duplicate_removal
from relation_heads.layers.duplicates.candidates import Candidates, select_candidates
from relation_heads.layers.duplicates.gates import gate_table
from relation_heads.layers.duplicates.losses import duplicate_loss, duplicate_targets, final_scores
from relation_heads.layers.duplicates.network import DuplicateRemoval
from tests.layers.reference_duplicate_removal import (
    CLASSES,
    DIM,
    class_logits,
    inputs,
    make,
    random_boxes,
)
from tests.layers.tracing import assert_traces


def per_class(boxes: torch.Tensor, classes: int = CLASSES) -> torch.Tensor:
    """(N, C, 4): other boxes in every class."""
    return torch.stack([boxes + 3 * c * torch.tensor([0, 0, 1, 2]) for c in range(classes)], dim=1)


def slow_logits(module, features, boxes, candidates: Candidates) -> torch.Tensor:
    own, out, begin = candidates.boxes(boxes).tolist(), [], 0
    for size in candidates.sizes:
        group = slice(begin, begin + size)
        out.append(class_logits(module, features[candidates.region[group]], own[group]))
        begin += size
    return torch.cat(out)


# (splits, first_n, threshold): groups of many sizes; the gate per pair of candidates / of regions
CASES = [((6, 0, 1, 4), 3, 0.1), ((5, 3), 100, 0.0)]


@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize(("splits", "first_n", "threshold"), CASES)
def test_scores_loss_and_gradients_equal_the_slow_reference(
    splits, first_n, threshold, class_specific
):
    module = make().double()
    features, boxes, log_scores = (x.double() for x in inputs(*splits))
    if class_specific:
        boxes = per_class(boxes)
    features.requires_grad_()
    log_scores.requires_grad_()
    candidates = select_candidates(log_scores, splits, first_n=first_n, score_threshold=threshold)
    logits = module(features, boxes, candidates)
    expected = slow_logits(module, features, boxes, candidates)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    targets = torch.rand(len(candidates), 5) < 0.2
    s0, s1 = candidates.log_scores.exp()[:, None], expected.sigmoid()
    y = targets.double()
    terms = 4 * y * (s0 * s1).log() + (1 - y) * (1 - s0 * s1).log()
    slow_loss = -terms.sum() / (first_n * 5 * len(splits))
    loss = duplicate_loss(candidates, logits, targets)
    torch.testing.assert_close(loss, slow_loss, rtol=1e-10, atol=0)
    wanted = [features, log_scores, *module.parameters()]
    names = ["features", "log_scores", *(name for name, _ in module.named_parameters())]
    for name, mine, slow in zip(
        names,
        torch.autograd.grad(loss, wanted, retain_graph=True),
        torch.autograd.grad(slow_loss, wanted),
        strict=True,
    ):
        torch.testing.assert_close(mine, slow, rtol=1e-10, atol=1e-12, msg=name)
        assert mine.abs().sum() > 0 or name == "key.bias", name  # invisible to a softmax
    torch.testing.assert_close(final_scores(candidates, logits), (s0 * s1).mean(dim=1))


@pytest.mark.parametrize("class_specific", [False, True])
def test_both_ways_to_the_gate_are_compared(class_specific, monkeypatch):
    """Pairs of regions are computed once where they are fewer and the classes share boxes."""
    tables = []
    monkeypatch.setattr(
        duplicate_gates, "gate_table", lambda *a: tables.append(gate_table(*a)) or tables[-1]
    )
    for splits, first_n, threshold in CASES:
        features, boxes, scores = inputs(*splits)
        boxes = per_class(boxes) if class_specific else boxes
        candidates = select_candidates(scores, splits, first_n=first_n, score_threshold=threshold)
        make()(features, boxes, candidates)
    assert len(tables) == (0 if class_specific else 1)


def test_golden_values_of_the_rank_embedding():
    ranks = torch.arange(4, dtype=torch.float64)[:, None]
    sums = sinusoidal_embedding(ranks, 512, scale=1.0).sum(dim=1)
    assert sums[0].item() == pytest.approx(512, abs=1e-6)
    assert sums[3].item() == pytest.approx(532.524653, abs=1e-6)


def test_the_rank_embedding_of_the_module():
    """With W_fR = 1 and everything else off, the sum of f is that of E_R."""
    module = DuplicateRemoval(DIM, embed_dim=16, rank_dim=16, num_thresholds=1).double()
    for layer in module.children():
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    torch.nn.init.eye_(module.rank.weight)
    torch.nn.init.constant_(module.rank.bias, 2.0)  # above the ReLU
    torch.nn.init.ones_(module.logit.weight)
    log_scores = torch.tensor([0.1, 0.4, 0.2], dtype=torch.float64).log()[:, None]
    candidates = select_candidates(log_scores, [3])
    out = module(torch.zeros(3, DIM).double(), random_boxes(3).double(), candidates)[:, 0] - 32
    wave = 1000 ** (torch.arange(8, dtype=torch.float64) / 8)
    expected = [(r / wave).sin().sum() + (r / wave).cos().sum() for r in range(3)]
    torch.testing.assert_close(out, torch.stack(expected))


def test_parameter_count_of_the_released_model():
    assert sum(p.numel() for p in DuplicateRemoval(1024).parameters()) == 544_789


def test_gradients():
    module = make().double()
    features, boxes, log_scores = (x.double() for x in inputs(4, classes=2))
    features.requires_grad_()
    boxes.requires_grad_()
    log_scores.requires_grad_()

    def run(features, log_scores):
        candidates = select_candidates(log_scores, [4])
        return final_scores(candidates, module(features, boxes, candidates))

    assert torch.autograd.gradcheck(run, (features, log_scores))
    run(features, log_scores).sum().backward()
    assert boxes.grad is None
    assert features.grad.abs().sum() > 0 and log_scores.grad.abs().sum() > 0


@pytest.mark.parametrize("first_n", [3, 100])
def test_batch_equals_image_by_image(first_n):
    module, splits = make(), (6, 0, 1, 9)
    features, boxes, log_scores = inputs(*splits)
    candidates = select_candidates(log_scores, splits, first_n=first_n)
    parts = candidates.split(module(features, boxes, candidates))
    begin = 0
    for part, n in zip(parts, splits, strict=True):
        rows = slice(begin, begin + n)
        alone = select_candidates(log_scores[rows], [n], first_n=first_n)
        expected = module(features[rows], boxes[rows], alone)
        torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-5)
        begin += n


def dense(values: torch.Tensor, candidates: Candidates, n: int) -> torch.Tensor:
    """(N, C) of final scores, 0 where a class has no candidate."""
    table = values.new_zeros(n, CLASSES)
    return table.index_put((candidates.region, candidates.label), values)


def run(module, features, boxes, log_scores, **kwargs) -> torch.Tensor:
    candidates = select_candidates(log_scores, [len(features)], **kwargs)
    return dense(
        final_scores(candidates, module(features, boxes, candidates)), candidates, len(features)
    )


@pytest.mark.parametrize("class_specific", [False, True])
def test_permutation_equivariance(class_specific):
    module = make().double()
    features, boxes, log_scores = (x.double() for x in inputs(12))
    boxes = per_class(boxes) if class_specific else boxes
    regions, classes = torch.randperm(12), torch.randperm(CLASSES)
    straight = run(module, features, boxes, log_scores, first_n=5)
    permuted = run(module, features[regions], boxes[regions], log_scores[regions], first_n=5)
    torch.testing.assert_close(permuted, straight[regions])
    boxes = boxes[:, classes] if class_specific else boxes
    permuted = run(module, features, boxes, log_scores[:, classes], first_n=5)
    torch.testing.assert_close(permuted, straight[:, classes])


def test_classes_do_not_hear_each_other():
    module = make()
    features, boxes, log_scores = inputs(8)
    boxes = per_class(boxes)
    before = run(module, features, boxes, log_scores, score_threshold=0.0)
    moved, louder = boxes.clone(), log_scores.clone()
    moved[:4, 1] += 30
    louder[:, 1] = louder[:, 1].flip(0)
    after = run(module, features, moved, louder, score_threshold=0.0)
    others = [0, 2, 3]
    torch.testing.assert_close(after[:, others], before[:, others])
    assert (after[:, 1] - before[:, 1]).abs().max() > 1e-4


def test_a_region_depends_on_the_others_of_its_class():
    module = make()
    features, boxes, _ = inputs(3)
    log_scores = torch.tensor([0.9, 0.8, 0.7]).log()[:, None].expand(-1, CLASSES)
    before = run(module, features, boxes, log_scores)
    moved, changed = boxes.clone(), features.clone()
    moved[1] += 40
    changed[1] += 1
    for f, b in ((features, moved), (changed, boxes)):
        assert (run(module, f, b, log_scores)[2] - before[2]).abs().max() > 1e-5
    swapped = log_scores[[1, 0, 2]]  # another rank, same others
    ratio = run(module, features, boxes, swapped) / swapped.exp()
    assert (ratio[0] - (before / log_scores.exp())[0]).abs().max() > 1e-4


def test_no_candidates_still_reach_every_parameter():
    for splits in ((0, 0), (3, 0)):
        module = make()
        features, boxes, log_scores = inputs(*splits)
        candidates = select_candidates(log_scores - 20, splits)
        logits = module(features, boxes, candidates)
        assert logits.shape == (0, 5)
        loss = duplicate_loss(candidates, logits, torch.zeros(0, 5, dtype=torch.bool))
        loss.backward()
        assert loss == 0
        assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_one_class_one_region_no_ground_truth():
    module = make(num_thresholds=2)
    features, boxes, _ = inputs(1)
    candidates = select_candidates(torch.tensor([[0.5]]).log(), [1], first_n=100)
    logits = module(features, boxes, candidates)
    nothing = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.long)]
    targets = duplicate_targets(candidates, boxes, *nothing, [0.5, 0.75])
    loss = duplicate_loss(candidates, logits, targets)
    loss.backward()
    assert logits.shape == (1, 2) and not targets.any() and loss > 0


def test_degenerate_boxes_train():
    boxes = torch.tensor([[5, 5, 5, 5], [5, 5, 5, 5], [9, 0, 9, 300], [0, 0, 400, 300.0]])
    module, (features, _, log_scores) = make(), inputs(4)
    module(features, boxes, select_candidates(log_scores, [4])).sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_bfloat16_autocast_stays_close(threshold):
    module = make()
    features, boxes, log_scores = inputs(40)
    candidates = select_candidates(log_scores, [40], score_threshold=threshold)
    expected = module(features, boxes, candidates)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = module(features, boxes, candidates)
        loss = duplicate_loss(candidates, logits, torch.zeros_like(logits, dtype=torch.bool))
    assert loss.dtype == torch.float32
    assert (logits.float() - expected).norm() / expected.norm() < 0.02
    loss.backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_weights_are_float32_under_autocast(monkeypatch):
    """The gate, its logarithm and the softmax, on both ways to the gate."""
    seen, attention = [], duplicate_removal.group_attention

    def spy(query, key, value, log_gate, *rest):
        seen.append(log_gate.detach())
        return attention(query, key, value, log_gate, *rest)

    monkeypatch.setattr(duplicate_removal, "group_attention", spy)
    module, (features, boxes, log_scores) = make(), inputs(12)
    for threshold in (0.0, 0.3):
        candidates = select_candidates(log_scores, [12], score_threshold=threshold)
        with torch.no_grad():
            module(features, boxes, candidates)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                module(features, boxes, candidates)
        half = len(seen) // 2
        for wide, low in zip(seen[:half], seen[half:], strict=True):
            assert low.dtype == torch.float32 and torch.equal(wide, low)
        seen.clear()


def test_inits():
    normal = DuplicateRemoval(512, init="normal", logit_bias=0.0)
    for name, layer in normal.named_children():
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1), name
        assert not layer.bias.any()
    xavier = DuplicateRemoval(512)
    assert xavier.query.weight.std() > 0.03
    assert xavier.logit.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert torch.equal(xavier.logit.bias, torch.full((5,), -3.0))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("init", "zero"),
        ("embed_dim", 9),
        *(("rank_dim", wrong) for wrong in (7, 0, None)),
        *((name, 0) for name in ("num_thresholds", "key_dim")),
        *(("logit_bias", wrong) for wrong in (math.nan, math.inf, None)),
    ],
)
def test_wrong_arguments_are_named(argument, value):
    with pytest.raises(ArgumentError) as caught:
        make(**{argument: value})
    assert [(w.argument, w.value) for w in caught.value.wrong] == [(argument, value)]


def test_all_wrong_arguments_are_named_at_once():
    with pytest.raises(ArgumentError) as caught:
        make(num_heads=3, rank_dim=7)
    assert [w.argument for w in caught.value.wrong] == ["embed_dim", "rank_dim"]


def test_wrong_inputs_are_named():
    module, (features, boxes, log_scores) = make(), inputs(3)
    candidates = select_candidates(log_scores, [3])
    with pytest.raises(ValueError, match=r"features must be \(3, 16\) .* got \(2, 16\)"):
        module(features[:2], boxes, candidates)
    with pytest.raises(ValueError, match=r"boxes must be \(3, 4\) or \(3, C, 4\) .* got \(2, 4\)"):
        module(features, boxes[:2], candidates)


@pytest.mark.parametrize("class_specific", [False, True])
def test_a_trace_runs_at_other_numbers_of_regions_and_candidates(class_specific):
    module = make().double().requires_grad_(False)
    options = {"first_n": 20, "score_threshold": 0.15, "max_classes": 3}

    def end_of_head(features, boxes, log_scores, first, second):
        splits = [first.shape[0], second.shape[0]]
        candidates = select_candidates(log_scores, splits, **options)
        scores = final_scores(candidates, module(features, boxes, candidates))
        return candidates.region, candidates.label, *candidates.split(scores)

    def case(*counts):
        features, boxes, log_scores = (x.double() for x in inputs(*counts))
        if class_specific:
            boxes = per_class(boxes)
        return features, boxes, log_scores, *(torch.zeros(n) for n in counts)

    cases = [case(6, 4), case(0, 1), case(0, 0), case(1, 0), case(30, 50)]
    assert len(select_candidates(cases[-1][2], [30, 50], **options).sizes) == 6
    assert_traces(end_of_head, *cases)


def test_features_and_boxes_of_an_image_that_are_not_finite_stay_there():
    module, (features, boxes, log_scores) = make(), inputs(6, 4)
    for threshold in (0.0, 0.3):
        candidates = select_candidates(log_scores, [6, 4], score_threshold=threshold)
        expected = candidates.split(module(features, boxes, candidates))[0]
        bad, lost = features.clone(), boxes.clone()
        bad[6:], lost[6:] = torch.nan, torch.inf
        logits = module(bad, lost, candidates)
        torch.testing.assert_close(candidates.split(logits)[0], expected)
        nothing = [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2
        objects = [lost[6:7], torch.rand(2, 4)], [torch.zeros(1).long(), torch.zeros(2).long()]
        for gt in (nothing, objects):
            targets = duplicate_targets(candidates, lost, *gt)
            assert not targets.any() and duplicate_loss(candidates, logits, targets).isnan()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_module_can_be_copied_and_pickled(copied):
    module, (features, boxes, log_scores) = make(), inputs(6, 4)
    candidates = select_candidates(log_scores, [6, 4])
    expected = module(features, boxes, candidates)
    expected.sum().backward()
    assert torch.equal(copied(module)(features, boxes, candidates), expected)
