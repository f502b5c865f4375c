"""Global reasoning: a graph of regions and classes, beyond the reach of convolutions.

Source: Chen, Li, Fei-Fei, Gupta, "Iterative Visual Reasoning Beyond Convolutions", CVPR 2018, eq.
2-4. No code of this module was released; what the paper leaves open is said where it is decided.

    G_r^spatial  = sum_e A_e M_r W_e                                 eq. 2, e: region to region
    G_c^semantic = sum_e A_e relu(A_rc M_r W_rc + M_c W_c) W_e       eq. 3, e: class to class
    G_r = relu(G_r^spatial + relu(A_cr G_c^semantic W_cr))           eq. 4

A_cr = p (R, C), the class probabilities of the regions, and A_rc = p^T. Layers are stacked, each
with a residual. The regions' memory M_r is updated by a gated recurrent unit.

Shapes: N regions of all images, R of one image; D channels; C classes without the background; E
kinds of edges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import at_least, require
from ..regions import Regions
from .class_edges import ClassEdges


class SpatialPath(nn.Module):
    """Eq. 2: messages between regions, one linear map W_e for every kind of edge."""

    def __init__(self, channels: int, num_relations: int) -> None:
        super().__init__()
        self.num_relations = num_relations
        self.linear = nn.Linear(channels, num_relations * channels, bias=False)  # all W_e

    def forward(self, memory: Tensor, adjacencies: Sequence[Tensor], regions: Regions) -> Tensor:
        """
        Args:
            memory: (N, D) M_r.
            adjacencies: A_e of each image, B tensors (E, R, R).
            regions: N.

        Returns:
            (N, D) G_r^spatial.
        """
        values = self.linear(memory).unflatten(1, (self.num_relations, -1))  # (N, E, D)
        return torch.cat(
            [
                torch.einsum("eij,jed->id", a.to(v.dtype), v)  # (R, D)
                for a, v in zip(adjacencies, regions.split(values), strict=True)
            ]
        )


class SemanticPath(nn.Module):
    """Eq. 3 and the inner part of eq. 4: regions to classes, along class edges, and back."""

    def __init__(self, channels: int, class_channels: int, num_relations: int) -> None:
        super().__init__()
        self.num_relations = num_relations
        self.from_regions = nn.Linear(channels, channels)  # W_rc
        self.from_classes = nn.Linear(class_channels, channels)  # W_c
        self.edges = nn.Linear(channels, num_relations * channels, bias=False)  # all W_e
        self.to_regions = nn.Linear(channels, channels)  # W_cr

    def forward(
        self,
        memory: Tensor,
        classes: Tensor,
        assignment: Tensor,
        knowledge: Iterable[ClassEdges],
        regions: Regions,
    ) -> Tensor:
        """
        Args:
            memory: (N, D) M_r.
            classes: (C, class_channels) M_c.
            assignment: (N, C) p, A_cr.
            knowledge: E of A_e.
            regions: N.

        Returns:
            (N, D) relu(A_cr G_c^semantic W_cr).
        """
        sent, own = self.from_regions(memory), self.from_classes(classes)  # (N, D), (C, D)
        out = []
        for p, m in zip(regions.split(assignment), regions.split(sent), strict=True):
            nodes = F.relu(p.to(m.dtype).T @ m + own)  # (C, D)
            values = self.edges(nodes).unflatten(1, (self.num_relations, -1))  # (C, E, D)
            sent_along = (a(v) for a, v in zip(knowledge, values.unbind(1), strict=True))
            messages = sum(sent_along, values.new_zeros(()))  # (C, D), float32 or wider
            out.append(F.relu(self.to_regions(p.to(messages.dtype) @ messages)))  # (R, D)
        return torch.cat(out)


class GlobalReasoning(nn.Module):
    """Stacked layers of eq. 2-4 over a memory of regions, with its update and its predictions."""

    def __init__(
        self,
        channels: int,
        *,
        feature_channels: int,
        num_logits: int,
        update_logits: int,
        num_relations: int = 5,
        num_stacks: int = 3,
        knowledge: Sequence[Tensor] = (),
        num_classes: int = 0,
        embeddings: Tensor | None = None,
        embedding_channels: int = 300,
    ) -> None:
        """
        Args:
            channels: D.
            feature_channels: of the region features that update the memory.
            num_logits: K, what is predicted.
            update_logits: of the predictions that update the memory.
            num_relations: E of the spatial edges; 0 leaves the spatial path out.
            num_stacks: layers.
            knowledge: sparse or dense (C, C) A_e between classes, normalised, rows are targets;
                none leaves the semantic path out.
            num_classes: C.
            embeddings: (C, d) M_c, for example word vectors, which stay as they are; None learns
                `embedding_channels` per class.

        Raises:
            ArgumentError: an argument outside these.
        """
        super().__init__()
        require(
            at_least("channels", channels, 1),
            at_least("feature_channels", feature_channels, 1),
            at_least("num_logits", num_logits, 1),
            at_least("update_logits", update_logits, 1),
            at_least("num_relations", num_relations, 0),
            at_least("num_stacks", num_stacks, 1),
            at_least("num_classes", num_classes, 1 if knowledge else 0),
            at_least("embedding_channels", embedding_channels, 1),
        )
        self.channels = channels
        self.spatial = nn.ModuleList(
            SpatialPath(channels, num_relations) for _ in range(num_stacks if num_relations else 0)
        )
        self.num_stacks = num_stacks
        self.knowledge = nn.ModuleList(ClassEdges(adjacency) for adjacency in knowledge)
        if knowledge:
            if embeddings is None:
                embeddings = nn.Parameter(torch.randn(num_classes, embedding_channels) * 0.01)
                self.embeddings = embeddings
            else:
                self.register_buffer("embeddings", embeddings)
            width = embeddings.shape[1]
            self.semantic = nn.ModuleList(
                SemanticPath(channels, width, len(knowledge)) for _ in range(num_stacks)
            )
        self.from_features = nn.Linear(feature_channels, channels)
        self.from_logits = nn.Linear(update_logits, channels, bias=False)
        self.gru = nn.GRUCell(channels, channels)
        self.classify = nn.Linear(channels, num_logits)
        self.attend = nn.Linear(channels, 1, bias=False)
        for layer in (self.from_logits, self.classify, self.attend):
            nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)

    def initial(self, features: Tensor) -> Tensor:
        """The empty memory, (N, D) zeros."""
        return features.new_zeros(features.shape[0], self.channels)

    def update(self, memory: Tensor, features: Tensor, logits: Tensor) -> Tensor:
        """The next memory, (N, D).

        The paper fuses features and predictions in a gated recurrent unit without saying how; here
        as in the released local module: x = relu(W features + W' logits).

        Args:
            memory: (N, D).
            features: (N, feature_channels).
            logits: (N, update_logits).
        """
        x = F.relu(self.from_features(features) + self.from_logits(logits))
        return self.gru(x, memory.to(x.dtype))

    def reason(
        self,
        memory: Tensor,
        regions: Regions,
        adjacencies: Sequence[Tensor],
        assignment: Tensor | None = None,
    ) -> Tensor:
        """Stacked eq. 2-4 with residuals, (N, D).

        Args:
            memory: (N, D) M_r.
            regions: N.
            adjacencies: A_e of each image, B tensors (E, R, R).
            assignment: (N, C) p; needed where there is knowledge.
        """
        for k in range(self.num_stacks):
            g = torch.zeros_like(memory)
            if len(self.spatial):
                g = g + self.spatial[k](memory, adjacencies, regions)
            if len(self.knowledge):
                g = g + self.semantic[k](
                    memory, self.embeddings, assignment, self.knowledge, regions
                )
            memory = memory + F.relu(g)
        return memory

    def predict(self, reasoned: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and attention (N, 1) of reasoned regions (N, D)."""
        return self.classify(reasoned), self.attend(reasoned)
