"""How learned duplicate removal cuts its work into batches, and the memory that this takes."""

import pytest
import torch

from benchmarks.measure import peak_bytes
from relation_heads.layers.duplicates import gates as duplicate_gates
from relation_heads.layers.duplicates import network as duplicate_removal
from relation_heads.layers.duplicates.candidates import select_candidates
from relation_heads.layers.duplicates.gates import gate_table, pair_rows
from relation_heads.layers.duplicates.losses import duplicate_loss
from relation_heads.layers.duplicates.network import plan_batches
from relation_heads.layers.geometry import log_gate, pair_embedding
from tests.layers.reference_duplicate_removal import dense_logits, inputs, make, random_boxes


@pytest.mark.parametrize("pairs", [1, 40, 2**16])
def test_the_size_of_batches_changes_nothing(pairs, monkeypatch):
    module = make().double()
    features, boxes, log_scores = (x.double() for x in inputs(14, 7))
    for threshold in (0.0, 0.1):
        candidates = select_candidates(log_scores, [14, 7], score_threshold=threshold)
        expected = module(features, boxes, candidates)
        with monkeypatch.context() as patch:
            patch.setattr(duplicate_removal, "PAIRS_PER_BATCH", pairs)
            patch.setattr(duplicate_gates, "PAIRS_PER_BATCH", pairs)
            torch.testing.assert_close(module(features, boxes, candidates), expected)


@pytest.mark.parametrize("sizes", [(), (1,), (5, 1, 4, 1, 100, 76, 3, 75, 2), (7,) * 30])
def test_batches_hold_every_candidate_once(sizes, monkeypatch):
    monkeypatch.setattr(duplicate_removal, "PAIRS_PER_BATCH", 500)
    batches, slots = plan_batches(sizes)
    assert len(batches) >= 1
    groups = [group.tolist() for group in torch.arange(sum(sizes)).split(list(sizes))]
    seen = []
    for rows, is_key in batches:
        assert len(rows) <= 1 or rows.numel() * rows.shape[1] <= 500
        for row, keys in zip(rows, is_key, strict=True):
            seen.append(row[keys].tolist())
            assert set(row.tolist()) == set(seen[-1]) and 4 * len(seen[-1]) > 3 * len(row)
    assert sorted(seen) == sorted(groups)
    flat = torch.cat([rows.flatten() for rows, _ in batches])
    assert torch.equal(flat[slots], torch.arange(sum(sizes)))


def test_gate_table(monkeypatch):
    monkeypatch.setattr(duplicate_gates, "PAIRS_PER_BATCH", 12)
    splits, boxes = (5, 0, 3), random_boxes(8).double()
    weight, bias = torch.randn(2, 64).double(), torch.randn(2).double()
    table, rows = gate_table(boxes, splits, weight, bias), pair_rows(splits)
    assert table.shape == (34, 2)
    for image in (range(5), range(5, 8)):
        part = boxes[list(image)]
        expected = log_gate(pair_embedding(part, part), weight, bias)
        for n in image:
            for m in image:
                entry = expected[:, n - image[0], m - image[0]]
                torch.testing.assert_close(table[rows[n] + m], entry)


def step(module, features, boxes, log_scores):
    def train():
        candidates = select_candidates(log_scores, [len(features)], score_threshold=1e-2)
        logits = module(features, boxes, candidates)
        loss = duplicate_loss(candidates, logits, torch.zeros_like(logits, dtype=torch.bool))
        return torch.autograd.grad(loss, list(module.parameters()))

    return train


def test_memory_follows_the_candidates_not_the_vocabulary():
    """60 regions, 40 against 150 classes of which 12 are seen: at most a twentieth of the dense
    form's, and only (N, C) tensors grow."""
    module = make()
    features, boxes, _ = inputs(60)
    few = 3 * torch.randn(60, 12, generator=torch.Generator().manual_seed(1))
    peaks = []
    for classes in (40, 150):
        logits = torch.cat([few, torch.full((60, classes - 12), -12.0), torch.ones(60, 1)], dim=1)
        log_scores = logits.log_softmax(dim=1)[:, :-1]
        peaks.append(peak_bytes(step(module, features, boxes, log_scores)))

    def dense_step():
        logits, order = dense_logits(module, features, log_scores, boxes, first_n=60)
        s0 = log_scores.T.gather(1, order).exp()[..., None]
        loss = -(1 - s0 * logits.sigmoid() + 1e-8).log().sum()
        return torch.autograd.grad(loss, list(module.parameters()))

    assert peaks[1] < peak_bytes(dense_step) / 20
    assert peaks[1] - peaks[0] < 3 * (150 - 40) * 60 * 4


@pytest.mark.parametrize("class_specific", [False, True])
def test_training_keeps_no_tensor_of_all_pairs(class_specific, monkeypatch):
    """Twice the classes are twice the pairs; what a step holds at most grows by the candidates
    alone."""
    monkeypatch.setattr(duplicate_removal, "PAIRS_PER_BATCH", 1600)
    monkeypatch.setattr(duplicate_gates, "PAIRS_PER_BATCH", 1600)
    module = make()
    features, boxes, log_scores = inputs(40, classes=40)
    if class_specific:
        boxes = boxes[:, None].expand(-1, 40, -1)
    all_seen = torch.full_like(log_scores, -3.0)
    peaks = [
        peak_bytes(step(module, features, boxes, all_seen[:, :c].contiguous())) for c in (20, 40)
    ]
    one_number_per_pair = 20 * 40 * 40 * 4
    assert peaks[1] - peaks[0] < 2 * one_number_per_pair  # if they were kept: 7 or more
