"""Folders in the raw format of Visual Genome: real images relabelled, and the full size generated.

    python -m tests.data.visual_genome_fixture --coco instances.json --images DIR --output DIR

makes one of a data set in COCO format, for a run of everything from `datasets/prepare_vg.py` on;
`write_large` makes one of Visual Genome's size, without images. Both are deterministic. Needs
neither Detectron2 nor Pillow.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relation_heads.data.visual_genome.images import published_classes

URL = "https://cs.stanford.edu/people/rak248/{}"
# Names of COCO that are no name of a VG3000 synset, and the synset to use.
COCO_SYNSETS = {
    "fire hydrant": "fireplug.n.01",
    "stop sign": "street_sign.n.01",
    "handbag": "bag.n.04",
    "suitcase": "bag.n.06",
    "skis": "ski.n.01",
    "sports ball": "ball.n.01",
    "wine glass": "goblet.n.01",
    "orange": "fruit.n.01",
    "hot dog": "frank.n.02",
    "donut": "doughnut.n.02",
    "couch": "sofa.n.01",
    "potted plant": "houseplant.n.01",
    "dining table": "table.n.02",
    "tv": "television.n.01",
    "remote": "remote_control.n.01",
    "cell phone": "mobile.n.01",
    "teddy bear": "teddy.n.01",
    "hair drier": "hand_blower.n.01",
}


def synset_of(name: str) -> str:
    """The VG3000 synset of a class name, the one of the lowest sense; KeyError if there is none."""
    if name in COCO_SYNSETS:
        return COCO_SYNSETS[name]
    bare = name.replace(" ", "_")
    found = sorted(s for s in published_classes() if s.rpartition(".n.")[0] == bare)
    if not found:
        raise KeyError(f"No VG3000 synset is called {bare!r}.")
    return found[0]


def relabel(
    coco_json: Path,
    image_root: Path,
    output: Path,
    *,
    synsets: Mapping[str, str] | None = None,
    num_of_coco: int = 0,
) -> dict[str, str]:
    """Writes objects.json, image_data.json and copies of the images, every other in VG_100K_2.

    Args:
        coco_json: annotations in COCO format; those of crowds are passed over.
        image_root: folder of its images.
        output: folder to write.
        synsets: of each category name (default: `synset_of`).
        num_of_coco: so many of the first images get a coco_id, their own id, the others null.

    Returns:
        the synset of each category name.
    """
    coco = json.loads(Path(coco_json).read_text())
    if synsets is None:
        synsets = {c["name"]: synset_of(c["name"]) for c in coco["categories"]}
    names = {c["id"]: c["name"] for c in coco["categories"]}
    objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    for number, a in enumerate(coco["annotations"], start=1):
        if not a.get("iscrowd"):
            name, box = names[a["category_id"]], [round(length) for length in a["bbox"]]
            objects[a["image_id"]].append(an_object(number, box, [synsets[name]], [name]))
    image_data, records = [], []
    for number, image in enumerate(sorted(coco["images"], key=lambda i: i["id"])):
        image_id = number + 1
        file_name = f"VG_100K{'_2' if number % 2 else ''}/{image_id}.jpg"
        (output / file_name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(image_root) / image["file_name"], output / file_name)
        size = image["width"], image["height"]
        of_coco = image["id"] if number < num_of_coco else None
        image_data.append(image_record(image_id, file_name, size, of_coco))
        url = URL.format(file_name)
        of_image = objects[image["id"]]
        records.append({"image_id": image_id, "objects": of_image, "image_url": url})
    (output / "image_data.json").write_text(json.dumps(image_data))
    (output / "objects.json").write_text(json.dumps(records))
    return dict(synsets)


def an_object(
    object_id: int, box: list[int], synsets: list[str], names: list[str]
) -> dict[str, Any]:
    """An item of `objects`; the box is x, y, w, h."""
    of_box = dict(zip("xywh", box, strict=True))
    return {"synsets": synsets, "object_id": object_id, "merged_object_ids": [], "names": names,
            **of_box}  # fmt: skip


def image_record(
    image_id: int, file_name: str, size: tuple[int, int], coco_id: int | None
) -> dict[str, Any]:
    """An item of image_data.json; the size is width and height."""
    return {"width": size[0], "height": size[1], "url": URL.format(file_name), "image_id": image_id,
            "coco_id": coco_id, "flickr_id": None}  # fmt: skip


def write_large(
    output: Path, num_images: int = 108_077, num_objects: int = 3_800_000, seed: int = 0
) -> None:
    """Writes objects.json and image_data.json with Zipf-distributed synsets and some dirt.

    47 % of the images have a coco_id, as in Visual Genome; how frequent the dirt is is made up: 5 %
    of the objects have no synset, 3 % two, 1 % begin outside the image, 0.5 % have no width.
    """
    rng = random.Random(seed)
    synsets = [*published_classes(), *(f"other_{k}.n.01" for k in range(5000))]
    weights = [1 / (k + 10) for k in range(len(synsets))]
    output.mkdir(parents=True, exist_ok=True)
    ends = [num_objects * (k + 1) // num_images for k in range(num_images)]
    with open(output / "image_data.json", "w") as images, open(output / "objects.json", "w") as out:
        for k, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            separator = ", " if k else "["
            folder = rng.choice(("VG_100K", "VG_100K_2"))
            coco_id = k if rng.random() < 0.47 else None
            record = image_record(k + 1, f"{folder}/{k + 1}.jpg", (800, 600), coco_id)
            images.write(separator + json.dumps(record))
            labels = rng.choices(synsets, weights, k=end - start)
            objects = [_random_object(rng, start + j, label) for j, label in enumerate(labels)]
            url = record["url"]
            out.write(separator + json.dumps({"image_id": k + 1, "objects": objects,
                                              "image_url": url}))  # fmt: skip
        images.write("]\n")
        out.write("]\n")


def _random_object(rng: random.Random, object_id: int, synset: str) -> dict[str, Any]:
    dirt = rng.random()
    synsets = [] if dirt < 0.05 else [synset, "tree.n.01"] if dirt < 0.08 else [synset]
    x = -5 if 0.08 <= dirt < 0.09 else rng.randrange(780)
    w = 0 if 0.09 <= dirt < 0.095 else rng.randrange(1, 300)
    box = [x, rng.randrange(580), w, rng.randrange(1, 300)]
    return an_object(object_id, box, synsets, [synset.partition(".")[0]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--coco", type=Path, required=True, help="annotations in COCO format")
    parser.add_argument("--images", type=Path, required=True, help="folder of its images")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    relabel(args.coco, args.images, args.output)


if __name__ == "__main__":
    main()
