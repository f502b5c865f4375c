"""`MODEL.TRAIN_ONLY`: what no pattern matches stays as it is, down to the last bit."""

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from relation_heads.engine import RelationTrainer, train_only
from tests.modeling.common import STOCK, config, losses


class Small(nn.Module):
    """Two branches of a convolution, a batch normalisation and a linear layer that both share."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 2)
        self.left = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.right = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.right.add_module("also_shared", self.shared)

    def forward(self, x):
        return self.shared((self.left(x) + self.right[1](self.right[0](x))).mean(dim=[2, 3]))


def trainable(model):
    return {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}


def changed_by_a_step(model, loss):
    """Names in the state dict that a step of SGD on everything trainable changes."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    after = model.state_dict()
    assert after.keys() == before.keys()
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def test_no_pattern_changes_nothing():
    model = Small()
    names = trainable(model)
    train_only(model, [])
    assert trainable(model) == names and len(names) == 12
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in model.modules())


def test_only_what_matches_trains():
    model = Small()
    names = set(model.state_dict())
    train_only(model, ["left.*"])
    assert trainable(model) == {"left.0.weight", "left.0.bias", "left.1.weight", "left.1.bias"}
    assert set(model.state_dict()) == names
    images = torch.rand(2, 3, 5, 5)
    changed = changed_by_a_step(model, lambda: model(images).square().sum())
    assert changed >= {"left.0.weight", "left.1.running_mean"}
    assert all(name.startswith("left.") for name in changed)


def test_a_batch_normalisation_that_trains_in_part_keeps_learning_statistics():
    model = Small()
    train_only(model, ["right.1.bias"])
    assert isinstance(model.left[1], FrozenBatchNorm2d)
    assert isinstance(model.right[1], nn.BatchNorm2d)


@pytest.mark.parametrize("pattern", ["shared.*", "*also_shared.*"])
def test_a_shared_parameter_trains_by_either_name(pattern):
    model = Small()
    train_only(model, [pattern])
    both = {f"{m}.{p}" for m in ("shared", "right.also_shared") for p in ("weight", "bias")}
    assert trainable(model) == both


def test_what_the_model_froze_stays_frozen():
    model = Small()
    model.left[0].weight.requires_grad_(False)
    train_only(model, ["left.*"])
    assert "left.0.weight" not in trainable(model) and "left.0.bias" in trainable(model)


@pytest.mark.parametrize(
    ("pattern", "close"), [("lefft.*", r"did you mean .*left\.\*"), ("middle", r"model\.$")]
)
def test_a_pattern_that_matches_nothing_is_named(pattern, close):
    model = Small()
    with pytest.raises(ValueError, match=f"MODEL.TRAIN_ONLY '{pattern[:3]}.*{close}"):
        train_only(model, ["right.*", pattern])
    assert len(trainable(model)) == len(list(model.named_parameters(remove_duplicate=False)))


def test_frozen_normalisations_do_not_look_at_the_batch():
    model, images = Small(), torch.rand(2, 3, 5, 5)
    model(images)  # statistics other than those at the start
    expected = model.eval()(images)
    assert not torch.allclose(model.train()(images), expected)
    expected = model.eval()(images)
    train_only(model, ["shared.weight"])
    torch.testing.assert_close(model.train()(images), expected)
    torch.testing.assert_close(model.eval()(images), expected)


def test_the_trainer_applies_it():
    torch.manual_seed(0)
    key = ("MODEL.TRAIN_ONLY", ["roi_heads.box_head.*"])
    model = RelationTrainer.build_model(config(*STOCK, *key))
    assert {name.rpartition(".")[0] for name in trainable(model)} == {
        "roi_heads.box_head.fc1", "roi_heads.box_head.fc2"
    }  # fmt: skip
    changed = changed_by_a_step(model, lambda: sum(losses(model).values()))
    assert changed == trainable(model)


def test_the_trainer_names_a_pattern_of_another_model():
    with pytest.raises(ValueError, match=r"did you mean .*roi_heads\.box_head\.\*"):
        RelationTrainer.build_model(config(*STOCK, "MODEL.TRAIN_ONLY", ["roi_heads.box_heads.*"]))
