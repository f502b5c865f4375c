"""What a detector found in an image, and what its detections listened to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.structures import Instances

from .canvas import draw_detections, side_by_side, upscale
from .objects import Objects
from .relations import LEGEND, Heard, draw_heard

BACKGROUND = "background"


@dataclass(frozen=True, eq=False)
class Relations:
    """What the D detections of an image listened to in one relation module or SGRN graph.

    Attributes:
        module: its name in the model, such as "roi_heads.box_head.relation2.0".
        kind: "ObjectRelation" or "SGRN".
        boxes: (R, 4) x1 y1 x2 y2 of the regions (the proposals; in the second stage of an SGRN and
            the later ones of a Cascade R-CNN the refined boxes), in pixels of the image.
        labels: R names, the most probable class of each region, or "background".
        region: (D,) from which region each detection came.
        weights: (heads, D, R) how much each detection's region listened to each region; rows sum to
            1. Of an SGRN (1, D, R): softmax of the edge scores e over the neighbours, 0 elsewhere.
    """

    module: str
    kind: str
    boxes: np.ndarray
    labels: list[str]
    region: np.ndarray
    weights: np.ndarray

    def heard(self, detection: int, head: int | None = None) -> np.ndarray:
        """(R,) weights of one detection: of one head, or the mean over the heads.

        Raises:
            ValueError: there is no such head.
        """
        if head is None:
            return self.weights[:, detection].mean(0)
        if not 0 <= head < len(self.weights):
            raise ValueError(f"head must be in 0 to {len(self.weights) - 1}, got {head}.")
        return self.weights[head, detection]


@dataclass(frozen=True, eq=False)
class Detections:
    """D detections of one image, the surest first.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        boxes: (D, 4) float x1 y1 x2 y2 in pixels of `image`.
        scores: (D,) in 0 to 1.
        classes: (D,) numbers of the classes.
        names: D names of the classes.
        file_name: of the image; "" if it came as pixels.
        features: (D, channels) what the regions were classified from; None if not asked for.
        relations: one entry for every relation module and SGRN graph; empty if not asked for.
        attention: of iterative reasoning, (D,) weights of each of its predictions by name; they sum
            to 1. Empty if not asked for.
        nodes: of GloRe units by name, (N, h, w) how much of every place of the image goes to each
            node, of both signs, at the resolution of the features. Empty if not asked for.
        instances: the same as Detectron2's `Instances` with everything else the model gives, such
            as masks.
    """

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    names: list[str]
    file_name: str = ""
    features: np.ndarray | None = None
    relations: tuple[Relations, ...] = ()
    attention: dict[str, np.ndarray] = field(default_factory=dict)
    nodes: dict[str, np.ndarray] = field(default_factory=dict)
    instances: Instances | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __str__(self) -> str:
        return self.above(0.0)

    def above(self, min_score: float) -> str:
        """Names and scores from a score on: "car 0.97, person 0.93"."""
        pairs = zip(self.names, self.scores, strict=True)
        return ", ".join(f"{n} {s:.2f}" for n, s in pairs if s >= min_score) or "nothing"

    def relations_of(self, module: str | None = None) -> Relations:
        """Of a module by its name; by default of the last one, whose output is classified.

        Raises:
            ValueError: there is none.
        """
        if module is None and self.relations:
            return self.relations[-1]
        for relations in self.relations:
            if relations.module == module:
                return relations
        raise ValueError(
            f"There is no relation module{'' if module is None else f' {module!r}'}; there are: "
            f"{', '.join(r.module for r in self.relations) or 'none'}."
        )

    def picture(self, *, min_score: float = 0.5, min_side: int = 640) -> np.ndarray:
        """The image with its detections, (H', W', 3) uint8 BGR.

        Args:
            min_score: detections below are not drawn.
            min_side: small images are enlarged until their shorter side has so many pixels.
        """
        image, boxes = upscale(self.image, self.boxes, min_side)
        shown = np.flatnonzero(self.scores >= min_score)
        return draw_detections(
            image, boxes[shown], [self.names[d] for d in shown], self.scores[shown]
        )

    def picture_of_relations(
        self,
        detection: int,
        *,
        module: str | None = None,
        head: int | None = None,
        top: int = 5,
        min_score: float = 0.5,
        min_side: int = 640,
    ) -> np.ndarray:
        """The detections beside what one of them listened to: (H', W', 3) uint8 BGR.

        Args:
            detection: its number.
            module: name of the relation module or SGRN graph; by default the last.
            head: which head's weights, None for their mean.
            top: number of objects to draw lines to.
            min_score: detections below are not drawn.
            min_side: small images are enlarged until their shorter side has so many pixels.

        Raises:
            ValueError: there is no such module or head.
        """
        relations = self.relations_of(module)
        objects = self.objects(relations, min_score=min_score, also=detection)
        about_self, found = objects.heard(relations.heard(detection, head), detection)
        image, boxes = upscale(self.image, self.boxes, min_side)
        _, regions = upscale(self.image, relations.boxes, min_side)
        heard = [
            Heard(boxes[i], self.names[i], weight)
            if detected
            else Heard(regions[i], relations.labels[i], weight, faint=True)
            for detected, i, weight in found
        ]
        name = self.names[detection]
        listened = draw_heard(image, boxes[detection], name, about_self, heard, top)
        drawn = self.picture(min_score=min_score, min_side=min_side)
        caption = f"{name} {self.scores[detection]:.2f} listens to"
        legend = LEGEND if any(one.faint for one in heard[:top]) else LEGEND[:2]
        return side_by_side([drawn, listened], ["detections", caption], legend)

    def objects(
        self, relations: Relations, *, min_score: float, also: int | None = None
    ) -> Objects:
        """Which regions show which detection.

        Args:
            relations: of this image.
            min_score: detections below are no objects.
            also: a detection that is one whatever its score.
        """
        counted = self.scores >= min_score
        if also is not None:
            counted[also] = True
        return Objects(relations.boxes, relations.region, self.boxes, np.flatnonzero(counted))

    def save(self, path: str | Path, *, min_score: float = 0.5) -> Path:
        """Writes `picture` to a file.

        Raises:
            OSError: it cannot be written.
        """
        return write_image(path, self.picture(min_score=min_score))

    def to_coco(
        self, image_id: int | str = 0, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """The detections as COCO results: boxes are x, y, width, height.

        Args:
            image_id: of this image in the data set.
            category_ids: of the classes; by default their numbers.
        """
        return [
            {
                "image_id": image_id,
                "category_id": int(k if category_ids is None else category_ids[k]),
                "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                "score": float(score),
            }
            for (x1, y1, x2, y2), score, k in zip(
                self.boxes, self.scores, self.classes, strict=True
            )
        ]


def write_image(path: str | Path, image: np.ndarray) -> Path:
    """Writes a BGR image; the format is that of the name's ending.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(str(path), image)
    except cv2.error as error:
        raise OSError(f"{path} cannot be written as an image: {error.err}.") from error
    if not written:
        raise OSError(f"{path} cannot be written.")
    return path
