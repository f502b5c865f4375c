"""Small networks that classify given boxes, without and with relational layers.

    x -> fc1 -> {relation} -> ReLU -> fc2 -> {relation} -> ReLU -> f -> {graph} -> classifier

Both fc layers have 512 channels; dropout is before each fc and before the classifiers. A mechanism
stands where its paper puts it: relation modules between a fc and its ReLU, SGRN and iterative
reasoning after a first classification of f. Beside them are controls, which are a mechanism without
what it hears from other boxes.

Shapes: N boxes of B images, D channels of x, C classes (there is no background).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from torch import Tensor, nn

from ...layers import (
    SGRN,
    GlobalReasoning,
    IterativeReasoning,
    ObjectRelation,
    Regions,
    semantic_nodes,
)
from ...layers.reasoning.losses import reasoning_losses
from ...layers.reasoning.region_edges import RELATIONS
from ...layers.reasoning.rollout import ReasonedLogits
from .data import Batch

WIDTH = 512
DROPOUT = 0.5
MOST_COUNTED = 2  # of one class among the other boxes, for `Oracle`


class MLP(nn.Module):
    """Every box alone; the networks below are this one and something more."""

    def __init__(self, dim: int, num_classes: int) -> None:
        """
        Args:
            dim: D.
            num_classes: C.
        """
        super().__init__()
        self.num_classes = num_classes
        self.fc1, self.fc2 = nn.Linear(dim, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.classify = nn.Linear(WIDTH, num_classes)
        self.drop = nn.Dropout(DROPOUT)

    def embed(self, batch: Batch) -> Tensor:
        """f, (N, WIDTH)."""
        f = F.relu(self.fc1(self.drop(batch.features)))
        return F.relu(self.fc2(self.drop(f)))

    def forward(self, batch: Batch) -> Tensor:
        """Logits (N, C)."""
        return self.classify(self.drop(self.embed(batch)))

    def loss(self, batch: Batch) -> Tensor:
        """What is minimised, a scalar."""
        return F.cross_entropy(self(batch), batch.labels)


class Oracle(MLP):
    """An MLP that is told how many of the other boxes of the image have each class (at most 2)."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__(dim + num_classes, num_classes)

    def embed(self, batch: Batch) -> Tensor:
        own = F.one_hot(batch.labels, self.num_classes).float()  # (N, C)
        others = torch.cat([image.sum(dim=0) - image for image in batch.regions.split(own)])
        told = torch.cat([batch.features, others.clamp(max=MOST_COUNTED)], dim=1)
        return super().embed(Batch(told, batch.regions, batch.labels))


class Related(MLP):
    """Object relation modules (Hu et al. 2018, eq. 10)."""

    def __init__(
        self, dim: int, num_classes: int, module: Callable[..., nn.Module] = ObjectRelation
    ) -> None:
        """
        Args:
            dim, num_classes: see `MLP`.
            module: makes a module from its number of channels, which is called (f, regions).
        """
        super().__init__(dim, num_classes)
        self.relation1, self.relation2 = (module(WIDTH, num_heads=16, key_dim=32) for _ in range(2))

    def embed(self, batch: Batch) -> Tensor:
        f = self.relation1(self.fc1(self.drop(batch.features)), batch.regions)
        f = self.relation2(self.fc2(self.drop(F.relu(f))), batch.regions)
        return F.relu(f)


class Alone(ObjectRelation):
    """A relation module whose boxes have no key but themselves: all of its weights are 1."""

    def forward(self, features: Tensor, regions: Regions) -> Tensor:
        """(N, D) to (N, D)."""
        _, values = self._entering(features, regions)
        return features + self.value(values)


class Twice(MLP):
    """A second classifier of f, which gets the mean of both gradients: SGRN without its graph."""

    def __init__(self, dim: int, num_classes: int, extra: int = 0) -> None:
        """
        Args:
            dim, num_classes: see `MLP`.
            extra: channels that the second classifier sees beside f.
        """
        super().__init__(dim, num_classes)
        self.classify_again = nn.Linear(WIDTH + extra, num_classes)

    def forward(self, batch: Batch) -> Tensor:
        return self.both(batch)[1]

    def loss(self, batch: Batch) -> Tensor:
        return sum(F.cross_entropy(logits, batch.labels) for logits in self.both(batch))

    def both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits of the first and of the second classifier, (N, C) each."""
        f = _ScaleGradient.apply(self.embed(batch), 0.5)  # two losses train it
        return self.classify(self.drop(f)), self.classify_again(self.seen_again(f, batch.regions))

    def seen_again(self, f: Tensor, regions: Regions) -> Tensor:
        """What the second classifier sees, (N, WIDTH + extra)."""
        return self.drop(f)


class WithSGRN(Twice):
    """SGRN (Xu et al. 2019) on f, in its plug-in form."""

    def __init__(self, dim: int, num_classes: int) -> None:
        graph = SGRN(WIDTH, WIDTH + 1, latent_dim=128, graph_dims=(256, 128))
        super().__init__(dim, num_classes, extra=graph.out_dim)
        self.graph = graph

    def seen_again(self, f: Tensor, regions: Regions) -> Tensor:
        weight, bias = self.classify.weight.detach(), self.classify.bias.detach()
        nodes = semantic_nodes(self.classify(f), weight, bias)
        h = self.graph(f.detach(), nodes, regions)  # (N, 128)
        return torch.cat([self.drop(f), h], dim=1)


class Reasoned(MLP):
    """Iterative reasoning with the global module alone (Chen et al. 2018)."""

    def __init__(
        self,
        dim: int,
        num_classes: int,
        relations: Sequence[str] = RELATIONS,
        knowledge: Sequence[Tensor] = (),
    ) -> None:
        """
        Args:
            dim, num_classes: see `MLP`.
            relations: kinds of spatial edges; none leaves every box alone.
            knowledge: (C, C) adjacencies of a class graph; none leaves classes out.
        """
        super().__init__(dim, num_classes)
        graph = GlobalReasoning(
            256,
            feature_channels=WIDTH,
            num_logits=num_classes,
            update_logits=num_classes,
            num_relations=len(relations),
            knowledge=knowledge,
            num_classes=num_classes,
        )
        self.reasoner = IterativeReasoning(memory=None, graph=graph, relations=relations)

    def forward(self, batch: Batch) -> Tensor:
        return self.reason(self.embed(batch), batch.regions).final

    def loss(self, batch: Batch) -> Tensor:
        f = self.embed(batch)
        first = F.cross_entropy(self.classify(self.drop(f)), batch.labels)
        reasoned = self.reason(f, batch.regions)
        losses = reasoning_losses(reasoned, batch.labels, beta=0.5, weights=(1.0, 1.0, 1.0))
        return first + sum(losses.values())

    def reason(self, f: Tensor, regions: Regions) -> ReasonedLogits:
        """All predictions of f (N, WIDTH)."""
        logits = self.classify(f)
        return self.reasoner(
            logits,
            f,
            regions,
            maps=f.new_zeros(len(regions.splits), 1, 1, 1),  # of the local module, left out
            boxes_in_cells=regions.boxes,
            grid_sizes=[(1, 1)] * len(regions.splits),
            assignment=logits.detach().softmax(dim=1),
        )


def _relation(**arguments: str) -> Callable[..., MLP]:
    return partial(Related, module=partial(ObjectRelation, **arguments))


# Name -> what makes the network from D and C; `WITH_CLASS_GRAPH` from a class graph, too.
METHODS: dict[str, Callable[..., MLP]] = {
    "mlp": MLP,
    "control_self": partial(Related, module=Alone),
    "control_self_published": partial(Related, module=partial(Alone, norm="")),
    "control_second": Twice,
    "control_no_edges": partial(Reasoned, relations=()),
    "relation": _relation(),
    "relation_signed": _relation(geometry="signed"),
    "relation_published": _relation(norm=""),
    "sgrn": WithSGRN,
    "global": Reasoned,
    "global_classes": Reasoned,
    "oracle": Oracle,
}
WITH_CLASS_GRAPH = ("global_classes",)
# Method -> its control.
CONTROLS = {
    "relation": "control_self",
    "relation_signed": "control_self",
    "relation_published": "control_self_published",
    "sgrn": "control_second",
    "global": "control_no_edges",
    "global_classes": "control_no_edges",
}
