"""What ends an ROI head: NMS, Soft-NMS or learned duplicate removal, from scores to detections.

They do different things, so there is nothing that ours must reach: what learned removal costs
beside the other two. Scores are synthetic: R regions, C classes and the background, logits
N(0, 2^2) with the background raised so that the number of boxes above 0.001 is that of a detector.
Each ends with the 100 best detections of one image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from relation_heads.layers import soft_nms_per_class
from relation_heads.layers.duplicates.candidates import select_candidates
from relation_heads.layers.duplicates.losses import duplicate_loss, final_scores
from relation_heads.layers.duplicates.network import DuplicateRemoval

from ..case import OURS, Case, Variant

DIM = 1024
DETECTIONS = 100
THRESHOLD = 0.001


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    """(count, 4) boxes of 16 to 400 pixels in an image of 800 x 1333."""
    centers = torch.rand(count, 2, generator=generator) * torch.tensor([1333.0, 800.0])
    sizes = 16 * 25 ** torch.rand(count, 2, generator=generator)
    return torch.cat([centers - sizes / 2, centers + sizes / 2], dim=1)


def end_of_head(regions: int, classes: int, background: float, device: str) -> Case:
    """The case of R regions and C classes whose background logit is raised by `background`."""
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(regions, generator).to(device)
    features = torch.randn(regions, DIM, generator=generator).to(device)
    logits = 2 * torch.randn(regions, classes + 1, generator=generator)
    logits[:, -1] += background
    log_scores = logits.log_softmax(dim=1)[:, :-1].to(device)
    scores = log_scores.exp()
    torch.manual_seed(0)
    network = DuplicateRemoval(DIM).to(device)

    def nms() -> Tensor:
        region, label = (scores > THRESHOLD).nonzero(as_tuple=True)
        return batched_nms(boxes[region], scores[region, label], label, 0.5)[:DETECTIONS]

    def soft_nms() -> tuple[Tensor, Tensor, Tensor]:
        return soft_nms_per_class(
            boxes, scores, score_threshold=THRESHOLD, max_detections=DETECTIONS
        )

    def learned() -> Tensor:
        candidates = select_candidates(log_scores, [regions], score_threshold=THRESHOLD)
        found = final_scores(candidates, network(features, boxes, candidates))
        return found.topk(min(DETECTIONS, len(found))).indices

    def train() -> None:
        candidates = select_candidates(log_scores, [regions], score_threshold=THRESHOLD)
        logits = network(features, boxes, candidates)
        loss = duplicate_loss(candidates, logits, torch.zeros_like(logits, dtype=torch.bool))
        torch.autograd.grad(loss, list(network.parameters()))

    return Case(
        {
            OURS: Variant(learned, train),
            "NMS": Variant(nms, is_peer=False),
            "Soft-NMS": Variant(soft_nms, is_peer=False),
        }
    )


CASES: dict[str, Callable[[str], Case]] = {
    "end of head, 300 x 80": lambda device: end_of_head(300, 80, 10.0, device),
    "end of head, 1000 x 3000": lambda device: end_of_head(1000, 3000, 14.0, device),
}
