"""From a checkpoint or a config to detections, and to what they listened to, in three lines.

    predictor = relation_heads.load("output/model_final.pth")
    found = predictor("street.jpg", relations=True)
    print(found)                                            # car 0.97, person 0.93

A checkpoint that `tools/train_net.py` wrote has its config and the names of its classes inside.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ..config.defaults import value_problems
from ..config.problems import raise_fatal
from ..layers import SGRN, ObjectRelation
from ..modeling import watch
from ..modeling.roi_heads.heads import Relational
from ..modeling.watch import Seen
from ..visualization.detections import BACKGROUND, Detections, Relations
from .build import building
from .checkpoint import ReportingCheckpointer
from .images import Image, to_bgr
from .model_config import config_of, merge_overrides, names_of_classes
from .stock_checks import stock_problems


def load(
    source: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] = "",
    class_names: Sequence[str] | None = None,
    device: str | None = None,
    half: bool = False,
    opts: Sequence[Any] = (),
) -> Predictor:
    """A trained detector that takes images.

    Args:
        source: a name of the zoo, a checkpoint of `tools/train_net.py`, or a config: a path, or a
            name below this project's `configs/` or Detectron2's own.
        weights: of a config: the checkpoint, instead of its `MODEL.WEIGHTS`.
        class_names: K names, where neither the checkpoint nor the data set of the config has them.
        device: "cpu", "cuda", ...; by default `MODEL.DEVICE`, or "cpu" where that is "cuda" and
            there is none.
        half: compute in half precision (bfloat16 on a CPU).
        opts: config overrides, keys and values in turn.

    Raises:
        FileNotFoundError, ValueError: a file, key or value is wrong, or the checkpoint
            has no config inside, or not all weights of the model, or the model does not detect.
    """
    cfg = config_of(source)
    if weights:
        cfg.MODEL.WEIGHTS = os.fspath(weights)
    merge_overrides(cfg, opts)
    if device is not None:
        cfg.MODEL.DEVICE = checked_device(device)
    elif cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = False  # it needs the training set's counts
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(f"{source} has no weights: its MODEL.WEIGHTS is empty.")
    raise_fatal([*value_problems(cfg), *stock_problems(cfg, eval_only=True)])
    with building("model"):
        model = build_model(cfg).eval()
    ReportingCheckpointer(model, complete=True).load(cfg.MODEL.WEIGHTS)
    return Predictor(model, cfg, class_names or names_of_classes(cfg), half=half)


def checked_device(name: str) -> str:
    """The name of a device that this machine has.

    Raises:
        ValueError: it has none of this name.
    """
    try:
        torch.zeros((), device=name).item()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"The device {name!r} cannot be used: {str(error).splitlines()[0]}"
        ) from error
    return name


class Predictor:
    """A detector that takes images: file names, arrays, PIL images or tensors.

    Attributes:
        model: in evaluation mode.
        cfg: its config.
        class_names: K names.
    """

    def __init__(
        self, model: nn.Module, cfg: CfgNode, class_names: Sequence[str], *, half: bool = False
    ) -> None:
        """
        Args:
            model: a `GeneralizedRCNN` with its weights.
            cfg: of which `INPUT` is read.
            class_names: K names.
            half: compute in half precision (bfloat16 on a CPU).

        Raises:
            ValueError: the model does not detect, or there are not K names.
        """
        if not isinstance(model, GeneralizedRCNN):
            raise ValueError(
                "MODEL.META_ARCHITECTURE must be GeneralizedRCNN or PanopticFPN to detect, got "
                f"{type(model).__name__}."
            )
        if model.proposal_generator is None:
            raise ValueError(
                f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME} classifies given boxes and finds "
                "none: MODEL.PROPOSAL_GENERATOR.NAME is PrecomputedProposals."
            )
        if len(class_names) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            raise ValueError(
                f"There are {len(class_names)} names of classes, but MODEL.ROI_HEADS.NUM_CLASSES "
                f"is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}."
            )
        self.model = model.eval()
        self.cfg = cfg
        self.class_names = list(class_names)
        self.half = half
        self._resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @overload
    def __call__(
        self, images: Image, *, relations: bool = ..., features: bool = ..., nodes: bool = ...
    ) -> Detections: ...

    @overload
    def __call__(
        self, images: list[Any], *, relations: bool = ..., features: bool = ..., nodes: bool = ...
    ) -> list[Detections]: ...

    def __call__(
        self,
        images: Image | list[Any],
        *,
        relations: bool = False,
        features: bool = False,
        nodes: bool = False,
    ) -> Detections | list[Detections]:
        """Detects.

        Args:
            images: an image, or a list of images that go through the model together. An image is a
                file name, a PIL image, an array (H, W, 3) uint8 BGR as OpenCV reads it, or a tensor
                (3, H, W) RGB as torchvision has it, uint8 or float in 0 to 1.
            relations: also say what the detections listened to.
            features: also give the box features behind the detections.
            nodes: also say which places the nodes of GloRe units gathered, if there are any.

        Returns:
            the detections of the image; of a list one entry for every image.

        Raises:
            OSError: a file is not an image.
            ValueError: something else is not an image, or the heads cannot be watched.
        """
        if not isinstance(images, list):
            return self([images], relations=relations, features=features, nodes=nodes)[0]
        pixels = [(image, to_bgr(image)) for image in images]
        return self._detect(pixels, relations=relations, features=features, nodes=nodes)

    def stream(
        self,
        images: Iterable[Image],
        *,
        batch_size: int = 1,
        relations: bool = False,
        features: bool = False,
        nodes: bool = False,
        skip: Callable[[Image, Exception], None] | None = None,
    ) -> Iterator[Detections]:
        """Detects in many images, `batch_size` at a time, in their order.

        Args:
            images, relations, features, nodes: as of a call.
            batch_size: images that go through the model together.
            skip: is told of what is no image, which is then left out; None: it is an error.

        Raises:
            OSError, ValueError: as of a call.
        """
        asks = {"relations": relations, "features": features, "nodes": nodes}
        batch: list[tuple[Image, np.ndarray]] = []
        for image in images:
            try:
                batch.append((image, to_bgr(image)))
            except (OSError, ValueError) as error:
                if skip is None:
                    raise
                skip(image, error)
            if len(batch) == batch_size:
                yield from self._detect(batch, **asks)
                batch = []
        yield from self._detect(batch, **asks)

    def _detect(
        self,
        images: list[tuple[Image, np.ndarray]],
        *,
        relations: bool,
        features: bool,
        nodes: bool,
    ) -> list[Detections]:
        """Of images that go through the model together, as they came and as pixels."""
        if not images:
            return []
        if (relations or features) and not isinstance(self.model.roi_heads, Relational):
            raise ValueError(
                "Relations and features are those of the heads of this package, and "
                f"MODEL.ROI_HEADS.NAME is {self.cfg.MODEL.ROI_HEADS.NAME}."
            )
        half = torch.bfloat16 if self.device.type == "cpu" else torch.float16
        precision = torch.autocast(self.device.type, half) if self.half else nullcontext()
        asks = relations or features or nodes
        watching = watch(self.model if nodes else None) if asks else nullcontext(Seen())
        inputs = [self._input(pixels) for _, pixels in images]
        with torch.inference_mode(), precision, watching as seen:
            outputs = self.model(inputs)
        modules = {module: name for name, module in self.model.named_modules()} if asks else {}
        if relations:  # of all images of the batch
            assert seen.last is not None
            best = [p.argmax(1) for p in seen.last.probabilities()]
        if nodes:
            backbone = self.model.backbone
            padded = ImageList.from_tensors(
                [one["image"] for one in inputs],
                backbone.size_divisibility,
                padding_constraints=backbone.padding_constraints,
            ).tensor.shape[-2:]
        found = []
        for i, ((image, pixels), output) in enumerate(zip(images, outputs, strict=True)):
            one = self._detections(output["instances"], image, pixels)
            if relations:
                one = replace(one, **self._heard(seen, i, one, best[i], modules))
            if features:
                x = seen.features(i, one.instances)
                one = replace(one, features=x.float().cpu().numpy())
            if nodes:
                size = inputs[i]["image"].shape[-2:]
                maps = {modules[g.module]: without_padding(g.maps[i], size, padded)
                        for g in seen.gathered}  # fmt: skip
                one = replace(one, nodes=maps)
            found.append(one)
        return found

    def _input(self, image: np.ndarray) -> dict[str, Any]:
        height, width = image.shape[:2]
        if self.cfg.INPUT.FORMAT == "RGB":
            image = image[:, :, ::-1]
        resize = self._resize.get_transform(image)
        if min(getattr(resize, name, 1) for name in ("new_h", "new_w")) < 1:  # none: as it is
            raise ValueError(
                f"An image of {width} x {height} pixels is too narrow: INPUT.MAX_SIZE_TEST "
                f"{self.cfg.INPUT.MAX_SIZE_TEST} leaves nothing of its shorter side."
            )
        resized = resize.apply_image(image)
        pixels = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return {"image": pixels, "height": height, "width": width}

    def _detections(self, found: Instances, image: Image, array: np.ndarray) -> Detections:
        found = found.to("cpu")
        classes = found.pred_classes.numpy()
        return Detections(
            image=array,
            boxes=found.pred_boxes.tensor.float().numpy(),
            scores=found.scores.float().numpy(),
            classes=classes,
            names=[self.class_names[k] for k in classes],
            file_name=os.fspath(image) if isinstance(image, str | os.PathLike) else "",
            instances=found,
        )

    def _heard(
        self, seen: Seen, i: int, found: Detections, best: Tensor, modules: dict[nn.Module, str]
    ) -> dict[str, Any]:
        """`relations` and `attention` of the detections of image i.

        Args:
            seen: of the batch.
            i: the image.
            found: in it.
            best: (R,) the most probable class of each of its regions.
            modules: names of the model's.
        """
        assert seen.last is not None and found.instances is not None
        rows = found.instances.region.to(self.device)
        names = [*self.class_names, BACKGROUND]
        relations = []
        for listened in seen.listened:
            boxes = listened.regions.split(listened.regions.boxes)[i]  # of the resized image
            height, width = listened.regions.image_sizes[i]
            scale = boxes.new_tensor([width, height] * 2)
            size = boxes.new_tensor([*found.image.shape[1::-1]] * 2)
            # Where both stages of an SGRN end in one NMS, the second one's rows come last.
            labels, region = best[-len(boxes) :], rows % max(len(boxes), 1)
            relations.append(
                Relations(
                    module=modules[listened.module],
                    kind=type(listened.module).__name__,
                    boxes=(boxes / scale * size).float().cpu().numpy(),
                    labels=[names[k] for k in labels.tolist()],
                    region=region.cpu().numpy(),
                    weights=listened.weights[i][:, region].float().cpu().numpy(),
                )
            )
        attention = {
            name: seen.last.regions.split(weights)[i][rows].float().cpu().numpy()
            for name, weights in seen.attention.items()
        }
        return {"relations": tuple(relations), "attention": attention}


def without_padding(maps: Tensor, size: Sequence[int], padded: Sequence[int]) -> np.ndarray:
    """The part of maps (N, h, w) that shows the image, float32.

    Args:
        maps: of the padded image.
        size: height and width of the image.
        padded: those of the padded image.
    """
    rows, columns = (
        math.ceil(side * cells / whole)
        for side, cells, whole in zip(size, maps.shape[-2:], padded, strict=True)
    )
    return maps[:, :rows, :columns].float().cpu().numpy()


def relation_modules(model: nn.Module) -> dict[str, ObjectRelation | SGRN]:
    """The relation modules and SGRN graphs of a model by name, in the order in which they stand in
    it."""
    return {n: m for n, m in model.named_modules() if isinstance(m, ObjectRelation | SGRN)}
