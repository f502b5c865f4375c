"""What Detectron2's federated loss must know of a data set: in how many images each class occurs.

`MODEL.ROI_BOX_HEAD.USE_FED_LOSS` (Zhou et al., "Probabilistic two-stage detection", 2021) draws
the negative classes of a batch by that number, and reads it from the metadata `class_image_count`,
which Detectron2 has for LVIS alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import MetadataCatalog

from ..evaluation.class_tables import count_classes

_COUNTED = "class_image_count_of"  # metadata: the names that were counted together


def provide_class_image_count(dataset_names: Sequence[str]) -> None:
    """Counts the images of every class in the files of data sets, unless the metadata has counts.

    Args:
        dataset_names: the training sets, of the same classes; they get the counts of all together.

    Raises:
        ValueError: a data set has neither counts nor a file in COCO format to count in.
    """
    metadata = [MetadataCatalog.get(name) for name in dataset_names]
    names = tuple(dataset_names)
    # Counts made here belong to these sets together, so that another choice of sets counts again.
    if all(m.get("class_image_count") and m.get(_COUNTED, names) == names for m in metadata):
        return
    for name, m in zip(dataset_names, metadata, strict=True):
        if not m.get("json_file"):
            raise ValueError(
                f"MODEL.ROI_BOX_HEAD.USE_FED_LOSS needs the number of images of each class, and "
                f"the data set {name} has neither class_image_count nor json_file in its metadata."
            )
    images = count_classes([m.json_file for m in metadata]).images
    counts = [{"id": k, "image_count": count} for k, count in sorted(images.items())]
    for m in metadata:
        for key, value in (("class_image_count", counts), (_COUNTED, names)):
            vars(m).pop(key, None)  # Metadata refuses another value
            setattr(m, key, value)
