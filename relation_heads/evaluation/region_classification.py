"""Evaluation of region classification, see `region_metrics` for the metrics.

The ground truth is read from the data set: every region of it is asked for exactly once. A region
that the model does not answer counts as wrong; one that is answered twice or does not exist is an
error. The output of the model for an image, of whose R regions the classes are asked, must have

    output["instances"]  `Instances` with region_ids (R,) as in the model's input,
                         class_probs (R, K), softmax over the classes without background, and
                         optionally class_probs_<name> (R, K) for intermediate predictions:
                         "plain", "local1", "local2", ..., "global1", ...

The (R, K) matrix of a test set may have gigabytes, so each process writes its part to files as it
goes, and the main process puts one prediction after the other together.
"""

from __future__ import annotations

import csv
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from tabulate import tabulate

from ..data.region_mapper import region_ids
from .region_metrics import PER_CLASS, region_metrics

logger = logging.getLogger(__name__)

TASK = "region_cls"
SHARD_BYTES = 64 * 2**20  # a file is written when the predictions in memory have this size


class RegionClassificationEvaluator(DatasetEvaluator):
    """Metrics in percent under "region_cls", and of intermediate predictions where there are any.

    Those are "region_cls_plain", and the last iteration's "region_cls_local" and
    "region_cls_global". Besides the metrics, each has the keys num_regions, num_classes_evaluated
    and num_missing, and a file `<dataset>_<key>_per_class.csv` in `output_dir`.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | os.PathLike[str],
        *,
        distributed: bool = True,
        keep_crowd: bool = False,
    ) -> None:
        """
        Args:
            dataset_name: a registered data set with `thing_classes` in its metadata.
            output_dir: for results and, until they are evaluated, predictions. Processes on several
                machines must share it.
            distributed: whether the predictions of all processes are put together.
            keep_crowd: whether crowd annotations are regions; the mapper must agree.

        Raises:
            ValueError: two images of the data set have the same id, or a class is out of range.
        """
        self._dataset_name, self._output_dir = dataset_name, os.fspath(output_dir)
        self._distributed = distributed
        self._classes: list[str] = MetadataCatalog.get(dataset_name).thing_classes
        self._regions, self._labels = _ground_truth(dataset_name, keep_crowd, len(self._classes))
        self._rows = {region: row for row, region in enumerate(self._regions)}

    def reset(self) -> None:
        """Forgets all predictions."""
        os.makedirs(self._output_dir, exist_ok=True)
        # Every process has a folder of its own; it disappears with the process if not before.
        self._folder = tempfile.TemporaryDirectory(prefix=f"{TASK}_", dir=self._output_dir)
        self._shards: list[tuple[str, tuple[str, ...]]] = []  # start of the file names, keys
        self._buffer: list[tuple[list[int], dict[str, np.ndarray]]] = []  # an image each
        self._buffer_bytes = 0
        self._keys: tuple[str, ...] | None = None
        self._seen = np.zeros(len(self._labels), dtype=bool)

    def process(
        self, inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]
    ) -> None:
        """
        Args:
            inputs: images, as given to the model, with `image_id`.
            outputs: what the model returned for them, see the module.

        Raises:
            ValueError: a region is unknown or answered twice, or probabilities are missing, not
                finite or of the wrong shape; names the image.
        """
        for record, output in zip(inputs, outputs, strict=True):
            image_id, instances = record["image_id"], output["instances"]
            if not (instances.has("region_ids") and instances.has("class_probs")):
                raise ValueError(
                    f"Image {image_id!r}: the model's instances must have region_ids and "
                    f"class_probs, but they have {', '.join(instances.get_fields()) or 'nothing'}."
                )
            rows = [self._row(image_id, region) for region in instances.region_ids.tolist()]
            if not rows:
                continue
            chosen = select_predictions(instances.class_probs, _intermediate(instances))
            if self._keys is not None and tuple(chosen) != self._keys:
                raise ValueError(
                    f"Image {image_id!r} has predictions for {', '.join(chosen)}, the images before"
                    f" for {', '.join(self._keys)}: they must be the same for all images."
                )
            self._keys = tuple(chosen)
            shape = (len(rows), len(self._classes))
            arrays = {key: _to_numpy(p, shape, image_id, key) for key, p in chosen.items()}
            self._buffer.append((rows, arrays))
            self._buffer_bytes += sum(array.nbytes for array in arrays.values())
            if self._buffer_bytes > SHARD_BYTES:
                self._write_shard()

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Puts the predictions of all processes together.

        Returns:
            task -> metric -> percent or number; None in all processes but the main one.

        Raises:
            ValueError: two processes answered the same region.
        """
        self._write_shard()
        gathered = comm.gather(self._shards) if self._distributed else [self._shards]
        try:
            if not gathered:
                return None
            return self._evaluate([shard for shards in gathered for shard in shards])
        finally:
            if self._distributed:
                comm.synchronize()  # the others' files are needed until here
            self._folder.cleanup()

    def _row(self, image_id: Any, region: int) -> int:
        """The row of a region, which is then marked as answered."""
        row = self._rows.get((image_id, region))
        if row is None:
            raise ValueError(
                f"The model classified region {region} of image {image_id!r}, "
                f"which {self._dataset_name} does not have."
            )
        if self._seen[row]:
            raise self._answered_twice(row)
        self._seen[row] = True
        return row

    def _answered_twice(self, row: int) -> ValueError:
        image_id, region = self._regions[row]
        return ValueError(
            f"Region {region} of image {image_id!r} of {self._dataset_name} was classified twice."
        )

    def _write_shard(self) -> None:
        """Moves the buffer to the files `<start>.rows.npy` and `<start>.<key>.npy`."""
        if not self._buffer:
            return
        start = os.path.join(self._folder.name, f"{len(self._shards):05d}")
        rows = [row for image_rows, _ in self._buffer for row in image_rows]
        np.save(f"{start}.rows.npy", np.array(rows, dtype=np.int64))
        for key in self._keys or ():
            np.save(
                f"{start}.{key}.npy", np.concatenate([arrays[key] for _, arrays in self._buffer])
            )
        self._shards.append((start, self._keys or ()))
        self._buffer, self._buffer_bytes = [], 0

    def _merge(self, key: str, starts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(R, K) probabilities, zero where there are none, and (R,) whether a region has some."""
        probabilities = np.zeros((len(self._labels), len(self._classes)), dtype=np.float32)
        seen = np.zeros(len(self._labels), dtype=bool)
        for start in starts:
            rows = np.load(f"{start}.rows.npy")
            if seen[rows].any():
                raise self._answered_twice(int(rows[seen[rows]][0]))
            seen[rows] = True
            probabilities[rows] = np.load(f"{start}.{key}.npy")
        return probabilities, seen

    def _evaluate(self, shards: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, Any]:
        results = {}
        for key in dict.fromkeys([TASK, *(key for _, keys in shards for key in keys)]):
            probabilities, seen = self._merge(key, [start for start, keys in shards if key in keys])
            if not seen.all():
                image_id, region = self._regions[int(np.argmin(seen))]
                logger.warning(
                    f"{key}: {np.sum(~seen)} of {len(seen)} regions of {self._dataset_name} have "
                    f"no prediction and count as wrong, the first is region {region} of image "
                    f"{image_id!r}."
                )
            overall, table = region_metrics(probabilities, self._labels)
            results[key] = {
                **{name: 100 * value for name, value in overall.items()},
                "num_regions": len(seen),
                "num_classes_evaluated": int((table[:, 0] > 0).sum()),
                "num_missing": int((~seen).sum()),
            }
            path = os.path.join(self._output_dir, f"{self._dataset_name}_{key}")
            _write_per_class(f"{path}_per_class.csv", self._classes, table)
        names = list(results[TASK])
        rows = [(key, *metrics.values()) for key, metrics in results.items()]
        table = tabulate(rows, ("", *names), tablefmt="pipe", floatfmt=".1f", numalign="right")
        logger.info(f"Region classification on {self._dataset_name} in percent:\n{table}")
        return results


def _intermediate(instances: Instances) -> dict[str, torch.Tensor]:
    """Name -> (R, K) of the intermediate predictions."""
    start = "class_probs_"
    fields = instances.get_fields().items()
    return {name.removeprefix(start): p for name, p in fields if name.startswith(start)}


def select_predictions(
    class_probs: torch.Tensor, region_probs: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Which predictions are evaluated: the final one, the plain one and the last of each kind.

    Args:
        class_probs: (R, K), the final prediction.
        region_probs: name -> (R, K) of intermediate predictions.

    Returns:
        key of the results -> (R, K).
    """
    chosen = {TASK: class_probs}
    if "plain" in region_probs:
        chosen[f"{TASK}_plain"] = region_probs["plain"]
    for kind in ("local", "global"):
        iterations = [
            int(name.removeprefix(kind))
            for name in region_probs
            if name.startswith(kind) and name.removeprefix(kind).isdecimal()
        ]
        if iterations:
            chosen[f"{TASK}_{kind}"] = region_probs[f"{kind}{max(iterations)}"]
    return chosen


def _ground_truth(
    dataset_name: str, keep_crowd: bool, num_classes: int
) -> tuple[list[tuple[Any, int]], np.ndarray]:
    """(image id, region id) and class of every region, in the order of the data set."""
    regions, labels, images = [], [], set()
    for record in DatasetCatalog.get(dataset_name):
        image_id = record["image_id"]
        if image_id in images:
            raise ValueError(f"Two images of {dataset_name} have the id {image_id!r}.")
        images.add(image_id)
        for region in region_ids(record, keep_crowd=keep_crowd):
            label = record["annotations"][region]["category_id"]
            if not 0 <= label < num_classes:
                raise ValueError(
                    f"Region {region} of image {image_id!r} of {dataset_name} has the class {label}"
                    f", which must be in 0..{num_classes - 1}."
                )
            regions.append((image_id, region))
            labels.append(label)
    return regions, np.array(labels, dtype=np.int64)


def _to_numpy(
    probabilities: torch.Tensor, shape: tuple[int, int], image_id: Any, key: str
) -> np.ndarray:
    if tuple(probabilities.shape) != shape:
        raise ValueError(
            f"Image {image_id!r}: {key} has the shape {tuple(probabilities.shape)}, but must have "
            f"one row per region and one column per class without background, {shape}."
        )
    array = probabilities.detach().to("cpu", torch.float32).numpy()
    if not np.isfinite(array).all():
        raise ValueError(f"Image {image_id!r}: {key} has a NaN or infinite probability.")
    return array


def _write_per_class(path: str, classes: Sequence[str], table: np.ndarray) -> None:
    """One row per class, SC, AC and AP in percent; they are empty for a class without a region."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("class", *PER_CLASS))
        for name, (count, *values) in zip(classes, table, strict=True):
            cells = [f"{100 * v:.4f}" for v in values] if count else [""] * len(values)
            writer.writerow((name, int(count), *cells))
