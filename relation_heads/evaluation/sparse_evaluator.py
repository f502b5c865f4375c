"""COCO's evaluation of boxes and masks of data sets with thousands of classes.

The numbers are those of Detectron2's `COCOEvaluator` with pycocotools; memory and time are not, see
`sparse_coco`. Results by class go to a file instead of the returned results, which a training puts
into its log and its event files. Keypoints are not evaluated.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from pycocotools import mask as mask_util

from ..data.coco_format import read_coco
from .class_tables import ClassCounts, bucket_means, count_classes, write_class_table
from .coco_arrays import GroundTruth, ground_truth, positions, read_results, write_results
from .sparse_coco import MAX_DETS, class_scores, evaluate_detections, summarize
from .sparse_matching import Detections, Objects

logger = logging.getLogger(__name__)

TASKS = ("bbox", "segm")
RESULTS_FILE = "coco_instances_results.json"  # the name that Detectron2 gives it


class SparseCOCOEvaluator(DatasetEvaluator):
    """Percentages under "bbox" and "segm", see `evaluate`, and files in `output_dir`.

    The files are coco_instances_results.json, as Detectron2 writes it, and
    `<dataset>_bbox_per_class.csv`, see `class_tables`, likewise for "segm".
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | os.PathLike[str] | None = None,
        *,
        distributed: bool = True,
        max_dets_per_image: int = MAX_DETS[-1],
        counts: ClassCounts | None = None,
        masks: bool = False,
    ) -> None:
        """
        Args:
            dataset_name: a registered data set. Its objects are those of the metadata's `json_file`
                if it has one, else it is converted to such a file in `output_dir`, once.
            output_dir: for the files; None writes none.
            distributed: whether the predictions of all processes are put together.
            max_dets_per_image: how many detections of an image and class count at most, over 10.
            counts: of the training set, for results by frequency; see `training_counts`.
            masks: whether masks are evaluated, too; all objects of the data set must have one.

        Raises:
            ValueError: `max_dets_per_image` or something in the data set does not fit.
        """
        if max_dets_per_image <= MAX_DETS[-2]:
            raise ValueError(
                f"max_dets_per_image must be more than {MAX_DETS[-2]}, not {max_dets_per_image}."
            )
        self._dataset_name, self._counts = dataset_name, counts
        self._output_dir = None if output_dir is None else os.fspath(output_dir)
        self._distributed, self._max_dets = distributed, max_dets_per_image
        self._masks = masks
        self._truth = _registered_truth(dataset_name, self._output_dir, masks)
        if counts is not None:
            counts.of(self._truth)  # fails here rather than after the inference
        self._images = positions(self._truth.image_ids)

    def reset(self) -> None:
        """Forgets all predictions."""
        self._seen: list[int] = []
        self._parts: list[Detections] = []
        # The loader of a data set may set the mapping of its categories: it is known by now.
        self._class_indices = _class_indices(self._dataset_name, self._truth)

    def process(
        self, inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]
    ) -> None:
        """
        Args:
            inputs: images, as given to the model, with `image_id`.
            outputs: with "instances": pred_boxes, scores, pred_classes, with `masks` also
                pred_masks (N, H, W) of the size of the image.

        Raises:
            ValueError: the image is not in the data set, or its predictions do not fit; names it.
        """
        for record, output in zip(inputs, outputs, strict=True):
            image_id = record["image_id"]
            image = self._images.get(image_id)
            if image is None:
                raise ValueError(f"Image {image_id!r} is not in {self._truth.source}.")
            if "instances" not in output:
                raise ValueError(f"Image {image_id!r}: the output of the model has no instances.")
            self._seen.append(image)
            self._parts.append(self._detections(image, output["instances"].to("cpu")))

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Puts the predictions of all processes together.

        Returns:
            {"bbox": AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100 (the number is the limit on
            detections), ARs, ARm, ARl, with `counts` also APr, APc and APf, and classes_evaluated,
            the number of classes with an object that is not a crowd}, with `masks` the same
            under "segm". All but the last are percentages; NaN where there is no object, and
            everywhere without a detection. Empty in all processes but the main one, and for a data
            set without annotations.

        Raises:
            ValueError: an image was given twice.
        """
        part = np.array(self._seen, dtype=np.int64), _concatenate(self._parts)
        if self._distributed:
            comm.synchronize()
            parts = comm.gather(part, dst=0)
            if not comm.is_main_process():
                return OrderedDict()
        else:
            parts = [part]
        self._check_seen(np.concatenate([seen for seen, _ in parts]))
        detections = _concatenate([d for _, d in parts])
        if self._output_dir is not None:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, RESULTS_FILE)
            logger.info(f"Writing {len(detections.scores)} detections to {path}.")
            with PathManager.open(path, "w") as file:
                write_results(file, detections, self._truth)
        return _evaluate(
            self._truth,
            detections,
            self._dataset_name,
            self._output_dir,
            self._max_dets,
            self._counts,
            self._masks,
        )

    def _detections(self, image: int, instances: Instances) -> Detections:
        """Of one image."""
        image_id = self._truth.image_ids[image]
        boxes = instances.pred_boxes.tensor.detach()
        boxes = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).double().numpy()
        scores = instances.scores.detach().double().numpy()
        classes = instances.pred_classes.numpy().astype(np.int64)
        wrong = classes[(classes < 0) | (classes >= len(self._class_indices))]
        if len(wrong):
            raise ValueError(
                f"Image {image_id!r} has a detection of class {wrong[0]}, but {self._dataset_name} "
                f"has the classes 0..{len(self._class_indices) - 1}."
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(f"Image {image_id!r} has a detection that is not finite.")
        masks = np.empty(len(scores), dtype=object)
        if self._masks:
            masks[:] = self._run_lengths(image, instances)
        images = np.full(len(scores), image, dtype=np.int64)
        return Detections(images, self._class_indices[classes], boxes, scores, masks)

    def _run_lengths(self, image: int, instances: Instances) -> list[dict[str, Any]]:
        """Of N masks, as Detectron2 encodes them for the results file."""
        image_id, (width, height) = self._truth.image_ids[image], self._truth.image_sizes[image]
        if not instances.has("pred_masks"):
            raise ValueError(f"Image {image_id!r}: the output of the model has no pred_masks.")
        runs = []
        for mask in instances.pred_masks:
            if tuple(mask.shape) != (height, width):
                raise ValueError(
                    f"Image {image_id!r} is {width:g} x {height:g} pixels in {self._truth.source}, "
                    f"but has a mask of {mask.shape[1]} x {mask.shape[0]}."
                )
            encoded = mask_util.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))
            runs.append({"size": encoded["size"], "counts": encoded["counts"].decode("utf-8")})
        return runs

    def _check_seen(self, seen: np.ndarray) -> None:
        counts = np.bincount(seen, minlength=len(self._truth.image_ids))
        if (counts > 1).any():
            image_id = self._truth.image_ids[int(np.argmax(counts > 1))]
            raise ValueError(f"Image {image_id!r} of {self._dataset_name} was predicted twice.")
        missing = np.flatnonzero(counts == 0)
        if len(missing):
            logger.warning(
                f"{len(missing)} of {len(counts)} images of {self._dataset_name} have no "
                f"prediction, the first is {self._truth.image_ids[missing[0]]!r}; their objects "
                "count as not found."
            )


def evaluate_results_file(
    dataset: str,
    results_file: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    *,
    max_dets_per_image: int = MAX_DETS[-1],
    counts: ClassCounts | None = None,
    masks: bool = False,
) -> OrderedDict[str, dict[str, float]]:
    """Evaluates saved predictions again, without a model.

    Args:
        dataset: the name of a registered data set, or the path of its JSON file in COCO format.
        results_file: the coco_instances_results.json of any evaluator.
        output_dir: for the results by class; None writes none.
        max_dets_per_image, counts, masks: see `SparseCOCOEvaluator`.

    Returns:
        see `SparseCOCOEvaluator.evaluate`.

    Raises:
        FileNotFoundError: there is no such data set or file.
        ValueError: a file is damaged, or the results are of another data set.
    """
    output_dir = None if output_dir is None else os.fspath(output_dir)
    if dataset in DatasetCatalog:
        name, truth = dataset, _registered_truth(dataset, output_dir, masks)
    elif os.path.isfile(dataset):
        name = os.path.splitext(os.path.basename(dataset))[0]
        truth = ground_truth(read_coco(dataset), dataset, masks)
    else:
        raise FileNotFoundError(f"There is neither a data set nor a file called {dataset!r}.")
    detections = read_results(results_file, truth, masks)
    if output_dir is not None:
        PathManager.mkdirs(output_dir)
    return _evaluate(truth, detections, name, output_dir, max_dets_per_image, counts, masks)


def training_counts(dataset_names: Sequence[str]) -> ClassCounts | None:
    """The counts of training sets, as far as they are known from their files.

    Reading Visual Genome takes a while, so the main process does it, once.

    Args:
        dataset_names: registered data sets with the same categories.

    Returns:
        None in all processes but the main one, and if a data set has no `json_file` or that is not
        here: evaluation does not depend on it.
    """
    if not comm.is_main_process():
        return None
    files = [MetadataCatalog.get(name).get("json_file") for name in dataset_names]
    local = tuple(PathManager.get_local_path(file) for file in files if file is not None)
    if not files or len(local) < len(files) or not all(map(os.path.isfile, local)):
        logger.info(f"No results by frequency: no annotation files of {list(dataset_names)} here.")
        return None
    return _counts_of(local)


_counts_of = functools.lru_cache(maxsize=1)(count_classes)


def _registered_truth(dataset_name: str, output_dir: str | None, masks: bool) -> GroundTruth:
    """The objects of a registered data set, found as `COCOEvaluator` finds them."""
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    if json_file is None:
        if output_dir is None:
            raise ValueError(
                f"{dataset_name} has no json_file in its metadata: it must be converted to one, "
                "which needs an output_dir."
            )
        json_file = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
        convert_to_coco_json(dataset_name, json_file)
    json_file = PathManager.get_local_path(json_file)
    return ground_truth(read_coco(json_file), json_file, masks)


def _class_indices(dataset_name: str, truth: GroundTruth) -> np.ndarray:
    """(K,) index in the sorted category ids of every class of the model."""
    mapping = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
    if mapping is None:  # as Detectron2 numbers the classes of a JSON file
        return np.arange(len(truth.category_ids))
    index = positions(truth.category_ids)
    unknown = [category_id for category_id in mapping if category_id not in index]
    if unknown or sorted(mapping.values()) != list(range(len(mapping))):
        raise ValueError(
            f"thing_dataset_id_to_contiguous_id of {dataset_name} must map category ids of "
            f"{truth.source} to 0..{len(mapping) - 1}"
            + (f", but it does not list {unknown[0]!r}." if unknown else ".")
        )
    by_class = sorted(mapping, key=lambda category_id: mapping[category_id])
    return np.array([index[category_id] for category_id in by_class], dtype=np.int64)


def _concatenate(parts: Sequence[Detections]) -> Detections:
    empty = np.zeros(0, dtype=np.int64)
    parts = [
        Detections(empty, empty, np.zeros((0, 4)), np.zeros(0), np.empty(0, dtype=object)),
        *parts,
    ]
    return Detections(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def _evaluate(
    truth: GroundTruth,
    detections: Detections,
    name: str,
    output_dir: str | None,
    max_dets_per_image: int,
    counts: ClassCounts | None,
    masks: bool,
) -> OrderedDict[str, dict[str, float]]:
    """See `SparseCOCOEvaluator.evaluate`."""
    if truth.objects is None:
        logger.info(f"{truth.source} has no annotations to evaluate with.")
        return OrderedDict()
    if len(detections.scores) == 0:
        logger.warning(
            "There are no detections, so all results are NaN. With thousands of classes, scores "
            "are small at first: lower MODEL.ROI_HEADS.SCORE_THRESH_TEST."
        )
    results: OrderedDict[str, dict[str, float]] = OrderedDict()
    for task in TASKS if masks else TASKS[:1]:
        table = os.path.join(output_dir, f"{name}_{task}_per_class.csv") if output_dir else None
        results[task] = _task_results(
            task, truth, truth.objects, detections, table, max_dets_per_image, counts
        )
    return results


def _task_results(
    task: str,
    truth: GroundTruth,
    objects: Objects,
    detections: Detections,
    table: str | None,
    max_dets_per_image: int,
    counts: ClassCounts | None,
) -> dict[str, float]:
    """One of the results of `SparseCOCOEvaluator.evaluate`; writes the file of all classes."""
    max_dets = (*MAX_DETS[:-1], max_dets_per_image)
    keys = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    keys += [*(f"AR{limit}" for limit in max_dets), "ARs", "ARm", "ARl"]
    num_images, num_classes = len(truth.image_ids), len(truth.category_ids)
    arrays = evaluate_detections(objects, detections, num_images, num_classes, max_dets, task)
    scores = 100 * class_scores(arrays)
    stats = [100 * s if s >= 0 else np.nan for s in summarize(arrays).tolist()]
    train = None if counts is None else counts.of(truth)
    results = dict(zip(keys, stats, strict=True))
    if train is not None:
        results.update(bucket_means(scores[:, 0], train[:, 0]))
    if len(detections.scores) == 0:
        results = dict.fromkeys(results, float("nan"))
    results["classes_evaluated"] = int((~np.isnan(scores[:, 0])).sum())
    logger.info(f"Evaluation results for {task}:\n{create_small_table(results)}")
    if table is not None:
        write_class_table(table, truth, scores, train)
        logger.info(f"Results of the {num_classes} classes: {table}")
    return results
