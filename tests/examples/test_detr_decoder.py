"""The example of a DETR decoder with position relation."""

import importlib.util
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from relation_heads.layers import PositionRelation

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "detr_decoder.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("detr_decoder", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def boxes(*shape):
    return 0.1 + 0.8 * torch.rand(*shape, 4)  # cx, cy, w, h


def corners(boxes):
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)


def layer(kind, **kwargs):
    made = kind(16, 4, dim_feedforward=32, batch_first=True, **kwargs)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def test_the_layer_is_torchs_with_the_bias_as_its_mask(example):
    relation = PositionRelation(4)
    ours = layer(example.RelationDecoderLayer, dropout=0.0)
    theirs = nn.TransformerDecoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x, memory = torch.randn(2, 7, 16), torch.randn(2, 9, 16)
    before, after = boxes(2, 7), boxes(2, 7)
    mask = relation(*map(corners, (before, after))).flatten(0, 1)
    out = ours(x, memory, relation, before, after)
    torch.testing.assert_close(out, theirs(x, memory, tgt_mask=mask), rtol=1e-4, atol=1e-5)
    assert (out - theirs(x, memory)).abs().max() > 0.01


def test_every_parameter_learns_and_every_layer_sees_the_boxes_of_two(example):
    relation, heads = PositionRelation(4), [nn.Linear(16, 4) for _ in range(3)]
    kinds = [nn.TransformerDecoderLayer, *[example.RelationDecoderLayer] * 2]
    layers = [layer(kind) for kind in kinds]
    seen = []
    attend = relation.attend
    relation.attend = lambda *inputs: seen.append(inputs[3:]) or attend(*inputs)
    start, x, memory = boxes(2, 7), torch.randn(2, 7, 16), torch.randn(2, 9, 16)
    found = example.decode(layers, heads, relation, x, memory, start)
    sum(b.square().sum() for b in found).backward()
    for module in (*layers, *heads, relation):
        assert all(p.grad.any() for p in module.parameters())
    stages = [start, *found]
    expected = [tuple(map(corners, pair)) for pair in pairwise(stages[:3])]
    torch.testing.assert_close(seen, expected)
