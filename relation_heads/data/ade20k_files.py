"""ADE20K as files in COCO format: what `datasets/prepare_ade.py` writes."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import ade20k
from .ade20k import AnnotatedImage, Region
from .files import Kept, stamp, write_whole
from .visual_genome.images import PUBLISHED_FILE

NOTES = {
    "reasoning": "Raw names. The 1,484 classes of the paper follow from its authors' names and "
    "counts alone; instances counted elsewhere give other classes.",
    "sgrn": "Merged names that Visual Genome has too. The list of 445 classes of the papers is not "
    "published; this one follows their description and may differ from it.",
}
NOT_A_CLASS = "name is not a class"
# Of github.com/endernewton/iter-reason, data/ADE at commit 82082b3.
PUBLISHED = PUBLISHED_FILE.parent
PUBLISHED_LISTS = {name: PUBLISHED / f"ade_{name}.txt" for name in ("mval", "mtest")}
KEPT = "ade_read.jsonl"  # what was read, below the output
_FORMAT = 1  # of the lines in it, and of the rules by which images are read
Images = Sequence[tuple[int, AnnotatedImage]]  # with their ids


def read_counts(names_file: Path, counts_file: Path) -> Counter[str]:
    """Instances per raw name, from two files whose lines belong together.

    Args:
        names_file: a name per line; `-` stands for no object and is passed over.
        counts_file: an integer per line.

    Raises:
        OSError, ValueError: a file cannot be read, or they do not fit each other.
    """
    names, lines = read_lines(names_file), read_lines(counts_file)
    if len(names) != len(lines):
        raise ValueError(
            f"{names_file} has {len(names)} lines, but {counts_file} {len(lines)}: line by line "
            "they must belong together."
        )
    counts: Counter[str] = Counter()
    for number, (name, count) in enumerate(zip(names, lines, strict=True), start=1):
        if not count.isdecimal():
            raise ValueError(f"{counts_file}, line {number} must be a count, but it is {count!r}.")
        if name not in ("", "-"):
            counts[ade20k.underscored(name)] += int(count)
    return counts


def read_lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text("utf-8", errors="replace").splitlines()]


def choose_classes(
    counts: Counter[str], labels: Mapping[str, str], min_count: int
) -> dict[str, int]:
    """The classes and their counts, most frequent first and then by name.

    Args:
        counts: instances of each raw name.
        labels: raw name -> label, of those that may be a class.
        min_count: fewest instances of a class.

    Raises:
        ValueError: no class is left.
    """
    totals: Counter[str] = Counter()
    for name in labels:
        totals[labels[name]] += counts[name]
    classes = {name: count for name, count in by_count(totals).items() if count >= min_count}
    if not classes:
        raise ValueError(f"None of {len(totals)} possible classes has {min_count} instances.")
    return classes


def to_coco(
    images: Images, root: Path, classes: Iterable[str], labels: Mapping[str, str]
) -> tuple[dict[str, Any], Counter[str]]:
    """A data set in COCO format; its annotations also have their `part_level`.

    Args:
        images: with their ids.
        root: folder that `file_name` is relative to.
        classes: K names, which get the ids 1 .. K.
        labels: raw name -> label.

    Returns:
        the data set, and by raw name how many regions are left out because their label is no class.
    """
    ids = {name: k for k, name in enumerate(classes, start=1)}
    records, annotations = [], []
    left_out: Counter[str] = Counter()
    for image_id, image in images:
        file_name = image.path.relative_to(root).as_posix()
        size = {"height": image.height, "width": image.width}
        records.append({"id": image_id, "file_name": file_name, **size})
        for region in image.regions:
            category = ids.get(labels.get(region.name, ""))
            if category is None:
                left_out[region.name] += 1
                continue
            of = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category}
            box = {"bbox": list(region.box), "area": region.area, "iscrowd": 0}
            annotations.append({**of, **box, "part_level": region.level})
    categories = [{"id": k, "name": name} for name, k in ids.items()]
    return {"images": records, "categories": categories, "annotations": annotations}, left_out


def describe(images: Images, coco: Mapping[str, Any], left_out: Counter[str]) -> dict[str, Any]:
    """The numbers of a split for the report."""
    dropped = dropped_in(images)
    dropped[NOT_A_CLASS] += left_out.total()
    num_parts = sum(annotation["part_level"] > 0 for annotation in coco["annotations"])
    return {
        "images": len(images),
        "images_without_boxes": len(images) - len({a["image_id"] for a in coco["annotations"]}),
        "annotations": len(coco["annotations"]),
        "objects": len(coco["annotations"]) - num_parts,
        "parts": num_parts,
        "dropped": dict(sorted(dropped.items())),
        "outlines_from_polygons": sum(image.num_polygons for _, image in images),
    }


def read_or_reason(path: Path, *, amodal: bool, kept: Kept) -> tuple[str, AnnotatedImage | str]:
    """A key for what the files of an image are now, and the image, or why it is left out: turned
    by EXIF, or the sentence about what is damaged."""
    key = stamp(ade20k.files_of(path), _FORMAT, amodal)
    known = kept.get(key)
    if known:
        return key, _from_json(path, known)
    try:
        return key, ade20k.read_image(path, amodal=amodal) or ade20k.TURNED
    except ade20k.DamagedImage as error:
        return key, str(error)


def read_split(
    paths: Sequence[Path], split: str, args: argparse.Namespace
) -> list[AnnotatedImage | str]:
    """All images, in order; those that were read before are taken from `KEPT`."""
    kept, found = Kept(args.output / KEPT), []
    read = partial(read_or_reason, amodal=args.amodal, kept=kept)
    with ThreadPoolExecutor(args.workers) as pool:  # decoding images leaves the interpreter free
        images = pool.map(read, paths)
        for key, image in tqdm(images, split, len(paths), unit="image", disable=None):
            found.append(image)
            if not isinstance(image, str):
                kept.set(key, _as_json(image))
    return found


def _as_json(image: AnnotatedImage) -> list[Any]:
    regions = [[r.name, r.level, list(r.box), r.area] for r in image.regions]
    return [image.height, image.width, regions, dict(image.dropped), image.num_polygons]


def _from_json(path: Path, content: list[Any]) -> AnnotatedImage:
    height, width, regions, dropped, num_polygons = content
    found = [Region(name, level, tuple(box), area) for name, level, box, area in regions]
    return AnnotatedImage(path, height, width, found, Counter(dropped), num_polygons)


def read_release(
    args: argparse.Namespace, paths: Mapping[str, Sequence[Path]], report: dict[str, Any]
) -> dict[str, Images]:
    """The images of train and val, numbered from 1 with those that are left out.

    Args:
        args: of the command line.
        paths: of the images, by split.
        report: gets how many images are left out by reason, the sentences about damaged ones, and
            the regions and drops of every split.

    Raises:
        ValueError: no image is left.
    """
    splits: dict[str, Images] = {}
    left_out: Counter[str] = Counter(report["images_left_out"])
    damaged: list[str] = []
    first_id = 1
    for split in filter(paths.get, paths):
        read = list(enumerate(read_split(paths[split], split, args), start=first_id))
        first_id += len(read)
        splits[split] = [(k, image) for k, image in read if not isinstance(image, str)]
        reasons = [image for _, image in read if isinstance(image, str)]
        damaged += [reason for reason in reasons if reason != ade20k.TURNED]
        left_out[ade20k.TURNED] += reasons.count(ade20k.TURNED)
    left_out[ade20k.DAMAGED] = len(damaged)
    report["images_left_out"] = dict(sorted((+left_out).items()))
    report["damaged"] = damaged
    report["read"] = {
        split: {
            "images": len(images),
            "regions": sum(len(image.regions) for _, image in images),
            "dropped": dict(sorted(dropped_in(images).items())),
        }
        for split, images in splits.items()
    }
    if not any(splits.values()):
        raise ValueError(f"None of {first_id - 1} images can be used. {' '.join(damaged[:1])}")
    return splits


def dropped_in(images: Images) -> Counter[str]:
    """What became no region, by reason."""
    return sum((image.dropped for _, image in images), Counter())


def write_splits(
    args: argparse.Namespace,
    splits: Mapping[str, Images],
    classes: Iterable[str],
    labels: Mapping[str, str],
) -> tuple[dict[str, dict[str, Any]], Counter[str]]:
    """Writes the annotations; returns the numbers per split, and the names that are no class."""
    report = {}
    names_left_out: Counter[str] = Counter()
    for split, images in splits.items():
        coco, left_out = to_coco(images, args.ade_root, classes, labels)
        file = args.output / "annotations" / f"ade_{args.labels}_{split}.json"
        info = {"description": f"ADE20K. {NOTES[args.labels]}"}
        write_whole(file, json.dumps({"info": info, **coco}) + "\n")
        report[split] = describe(images, coco, left_out)
        print(f"{file}: {', '.join(f'{key} {value}' for key, value in report[split].items())}")
        if split in ade20k.SPLIT_FOLDERS.values():  # lists are parts of val
            names_left_out += left_out
    return report, names_left_out


def listed_images(
    list_files: Mapping[str, Path], val_names: Iterable[str]
) -> tuple[dict[str, set[str]], dict[str, int]]:
    """By name of the list: its validation images, and how many of its images are not there.

    Paths differ between releases, so images are found by their file names.

    Raises:
        OSError, ValueError: a list cannot be read, or none of its images is there.
    """
    lists, not_there = {}, {}
    for name, file in list_files.items():
        listed = {line.rpartition("/")[2] for line in read_lines(file) if line}
        lists[name] = listed.intersection(val_names)
        not_there[name] = len(listed - lists[name])
        if not lists[name]:
            raise ValueError(f"{file}: none of its {len(listed)} images is a validation image.")
    return lists, not_there


def by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def with_published(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with the published lists where they are asked for, and the names of the
    vocabulary instead of its file."""
    args = argparse.Namespace(**vars(args))
    args.val_lists = {path.stem: path for path in args.val_lists}
    if args.labels == "sgrn":
        lines = read_lines(args.vocabulary or PUBLISHED_FILE)
        args.vocabulary = set(map(ade20k.bare_name, lines))
    if args.published:
        args.names, args.counts = PUBLISHED / "ade_names.txt", PUBLISHED / "ade_counts.txt"
        args.val_lists = PUBLISHED_LISTS if args.labels == "reasoning" else {}
    return args


def prepare(args: argparse.Namespace) -> None:
    """Reads the release, writes all files and says what is in them.

    Args:
        args: of `datasets/prepare_ade.py`.
    """
    args = with_published(args)
    counts = read_counts(args.names, args.counts) if args.names else None
    paths, images_left_out = ade20k.find_images(args.ade_root)
    lists, not_there = listed_images(args.val_lists, [path.name for path in paths["val"]])
    if counts is None and not paths["train"]:
        raise ValueError(f"{args.ade_root} has no training images in which to count instances.")
    report: dict[str, Any] = {
        "labels": args.labels,
        "note": NOTES[args.labels],
        "min_count": args.min_count,
        "counted": args.counts.name if args.counts else "training images",
        "amodal": args.amodal,
        "images_left_out": images_left_out,
        "listed_but_not_in_val": not_there,
    }
    try:
        classes = convert(args, paths, counts, lists, report)
    except ValueError as error:
        write_report(args, {"failed": str(error), **report})
        raise
    write_report(args, report)
    names = "".join(f"{name}\n" for name in classes)
    write_whole(args.output / f"ade_{args.labels}_classes.txt", names)
    print(f"{len(classes)} classes (MODEL.ROI_HEADS.NUM_CLASSES). {NOTES[args.labels]}")
    print(f"images left out: {report['images_left_out'] or 'none'}")


def convert(
    args: argparse.Namespace,
    paths: Mapping[str, Sequence[Path]],
    counts: Counter[str] | None,
    lists: Mapping[str, set[str]],
    report: dict[str, Any],
) -> dict[str, int]:
    """Reads the images and writes the annotations.

    Args:
        args: of the command line, see `with_published`.
        paths: of the images, by split.
        counts: instances of each raw name; None: those of the training images.
        lists: further splits, see `listed_images`.
        report: gets what was counted, also where this fails.

    Returns:
        the classes and their counts.

    Raises:
        ValueError: no image or no class is left.
    """
    splits = read_release(args, paths, report)
    names = Counter(r.name for images in splits.values() for _, i in images for r in i.regions)
    if counts is None:
        counts = Counter(r.name for _, image in splits["train"] for r in image.regions)
    merge = ade20k.merged_name if args.labels == "sgrn" else str
    labels = {name: merge(name) for name in counts.keys() | names.keys()}
    lost = {}
    if args.vocabulary:
        known = args.vocabulary & names.keys()
        lost = {name: names[name] for name in known if labels[name] not in args.vocabulary}
        labels = {name: label for name, label in labels.items() if label in args.vocabulary}
    report["names_lost_by_merging"] = by_count(lost)
    classes = choose_classes(counts, labels, args.min_count)
    for name, listed in lists.items():
        splits[name] = [(k, image) for k, image in splits["val"] if image.path.name in listed]
    report["splits"], names_left_out = write_splits(args, splits, classes, labels)
    pairs = [(name, name.replace("left_", "right_", 1)) for name in classes]
    report["hflip_pairs"] = [p for p in pairs if p[0].startswith("left_") and p[1] in classes]
    report["names_left_out"] = by_count(names_left_out)
    report["num_classes"] = len(classes)
    report["class_counts"] = classes
    return classes


def write_report(args: argparse.Namespace, report: Mapping[str, Any]) -> None:
    text = json.dumps(report, indent=1) + "\n"
    write_whole(args.output / f"ade_{args.labels}_report.json", text)
