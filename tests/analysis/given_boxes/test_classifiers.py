"""The networks: who sees the other boxes, and who does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("detectron2")

import torch
import torch.nn.functional as F

from relation_heads.analysis.given_boxes.classifiers import METHODS
from relation_heads.analysis.given_boxes.data import Batch
from relation_heads.layers import Regions
from tests.analysis.given_boxes.toys import CHANNELS, CLASSES

ALONE = ["mlp", "control_self", "control_self_published", "control_second", "control_no_edges"]
TOGETHER = ["relation", "relation_signed", "relation_published", "sgrn", "global", "global_classes"]
CHAIN = torch.tensor([[0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0, 0, 1, 0]])


def network(method, knowledge=CHAIN):
    """With random parameters, so that nothing is 0 that starts as 0."""
    arguments = {"knowledge": [knowledge]} if method == "global_classes" else {}
    torch.manual_seed(0)
    made = METHODS[method](CHANNELS, len(CLASSES), **arguments)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    return made.eval()


def batch():
    """Two images, of three boxes and of two."""
    draw = torch.Generator().manual_seed(3)
    corners = 100 * torch.rand(5, 2, generator=draw)
    boxes = torch.cat([corners, corners + 40], dim=1)
    features = torch.randn(5, CHANNELS, generator=draw)
    regions = Regions(boxes, (3, 2), ((200, 200), (200, 200)))
    return Batch(features, regions, torch.tensor([0, 1, 2, 3, 0]))


def with_other_features(given, row):
    features = given.features.clone()
    features[row] += 1
    return replace(given, features=features)


@torch.no_grad()
def changes(method, changed):
    """How much the logits of the first box differ."""
    net = network(method)
    return (net(changed) - net(batch()))[0].abs().max().item()


def test_every_method_is_tested():
    assert {*ALONE, *TOGETHER, "oracle"} == METHODS.keys()


@pytest.mark.parametrize("method", ALONE)
def test_controls_ignore_other_boxes(method):
    given = batch()
    moved = replace(given, regions=replace(given.regions, boxes=given.regions.boxes + 7))
    assert changes(method, with_other_features(given, 1)) < 1e-6
    assert changes(method, moved) < 1e-6
    assert changes(method, with_other_features(given, 0)) > 1e-3


@pytest.mark.parametrize("method", TOGETHER)
def test_relational_methods_see_other_boxes_of_the_image(method):
    given = batch()
    assert changes(method, with_other_features(given, 1)) > 1e-4
    assert changes(method, with_other_features(given, 3)) < 1e-6  # of the other image


def test_the_oracle_sees_labels_of_other_boxes_of_the_image():
    given = batch()
    assert changes("oracle", with_other_features(given, 1)) < 1e-6
    for labels, seen in (
        ([0, 3, 2, 3, 0], True),
        ([1, 1, 2, 3, 0], False),  # its own
        ([0, 1, 2, 1, 0], False),  # of the other image
    ):
        changed = replace(given, labels=torch.tensor(labels))
        assert (changes("oracle", changed) > 1e-4) == seen, labels


@pytest.mark.parametrize("form", ["", "_published"])
@torch.no_grad()
def test_the_control_of_relation_is_relation_with_every_box_in_an_image_of_its_own(form):
    given = batch()
    alone = replace(given, regions=Regions(given.regions.boxes, (1,) * 5, ((200, 200),) * 5))
    control, relation = network(f"control_self{form}"), network(f"relation{form}")
    control.load_state_dict(relation.state_dict())
    torch.testing.assert_close(control(given), relation(alone))


def test_forms_of_relation():
    modules = {name: network(name).relation2 for name in TOGETHER if name.startswith("relation")}
    assert {name: (m.norm, m.geometry) for name, m in modules.items()} == {
        "relation": ("max_rms", "relation"),
        "relation_signed": ("max_rms", "signed"),
        "relation_published": ("", "relation"),
    }
    norms = [network(name).relation1.norm for name in ("control_self", "control_self_published")]
    assert norms == ["max_rms", ""]


@pytest.mark.parametrize("method", ["control_second", "sgrn"])
def test_what_two_classifiers_share_gets_the_mean_gradient(method):
    net, given = network(method), batch()
    net.loss(given).backward()
    found = net.fc2.weight.grad.clone()
    net.zero_grad()
    f = net.embed(given)
    first, again = net.classify(f), net.classify_again(net.seen_again(f, given.regions))
    both = F.cross_entropy(first, given.labels) + F.cross_entropy(again, given.labels)
    (both / 2).backward()
    torch.testing.assert_close(found, net.fc2.weight.grad)
    assert found.abs().max() > 1e-6


@pytest.mark.parametrize("method", ["global", "global_classes", "control_no_edges"])
def test_losses_of_reasoning_do_not_train_the_mlp(method):
    net, given = network(method), batch()
    net.loss(given).backward()
    plain = network("mlp")
    plain.load_state_dict(net.state_dict(), strict=False)
    plain.loss(given).backward()
    torch.testing.assert_close(net.fc1.weight.grad, plain.fc1.weight.grad)
    assert net.reasoner.graph.classify.weight.grad.abs().max() > 0


@torch.no_grad()
def test_the_class_graph_is_used():
    given = batch()
    edges, others = network("global_classes")(given), network("global_classes", CHAIN.T)(given)
    assert (edges - others).abs().max() > 1e-4
