"""A hand-written Visual Genome with every kind of dirt, and what its conversion must report.

With `--held-out 1` image 32 is test, image 31 val, and the others are train.
"""

from __future__ import annotations

from relation_heads.data.visual_genome import boxes as vg_boxes
from relation_heads.data.visual_genome import images as vg
from tests.data.visual_genome_fixture import an_object, image_record

SIZE = 100, 80


def record(image_id, file_name="", coco_id=None, **changes):
    return {**image_record(image_id, file_name or f"VG_100K/{image_id}.jpg", SIZE, coco_id),
            **changes}  # fmt: skip


def without(item, key):
    return {k: v for k, v in item.items() if k != key}


def tree(object_id, *box, synsets=("tree.n.01",), names=("trees",)):
    return an_object(object_id, box or [10, 10, 20, 30], list(synsets), list(names))


IMAGE_DATA = [
    record(1),
    record(2, "VG_100K_2/2.jpg", coco_id=17),
    record(3, "VG_100K/2370463.jpg"),  # not its id
    record(1, width=7),  # a second time
    record(4, url="http://farm1.example/4.jpg"),
    without(record(5), "height"),
    record(6, "VG_100K/1.jpg"),  # the file of image 1
    without(record(7), "coco_id"),
    record(8),  # no record in objects.json
    record(9),  # a record without objects
    record(10),  # objects of other synsets alone
    record(31),
    record(32),
]
OBJECTS_OF_1 = [
    tree(100),
    tree(101, -5, 10, 20, 10),
    tree(102, 90, 70, 50, 50, synsets=["sidewalk.n.01"]),
    tree(103, 200, 10, 5, 5),
    tree(104, 5, -904, 9, 9),
    tree(105, 10, 10, 0, 5),
    tree(106, 10, 10, 5, -5),
    tree(107, synsets=[]),
    without(tree(108), "synsets"),
    tree(109, synsets=["tree.n.01", "wood.n.01"]),
    {**without(tree(110, 1, 1, 5, 5), "names"), "name": "oak"},  # kept
    {**without(tree(111, synsets=[]), "names"), "name": "oak"},  # told by its name
    without(tree(112), "x"),
    {**tree(113), "w": "20"},
    "tree",
    tree(100, 50, 50, 9, 9),
    tree(114),
    without(tree(0, 30, 30, 9, 9), "object_id"),
    without(tree(0, 30, 30, 9, 9), "object_id"),
    tree(115, 99.5, 0, 3, 3),
    tree(116, synsets=["xylophone.n.99"], names=[]),
]
OBJECTS = [
    {"image_id": 1, "objects": OBJECTS_OF_1, "image_url": "x"},
    {"image_id": 2, "objects": [tree(200, synsets=["street.n.01"])]},
    {"image_id": 2, "objects": [tree(201), tree(202)]},
    {"image_id": 99, "objects": [tree(9900)]},
    {"image_id": 5, "objects": [tree(500)]},
    {"image_id": 9},
    {"image_id": 10, "objects": [tree(1000, synsets=["xylophone.n.99"])]},
    {"image_id": 32, "objects": [tree(3200), tree(3201, 0, 0, 100, 80)]},
    {"image_id": 7, "objects": [tree(700, 10.5, 10, 20, 30)]},
    {"image_id": 31, "objects": [tree(3100)]},
    {"image_id": 3, "objects": [tree(300)]},
]


def told(count, *first):
    return {"count": count, "first": list(first)}


IMAGES_LEFT_OUT = {
    vg.NO_FILE_NAME: told(1, "image 4, no file"),
    vg.NO_SIZE: told(1, "image 5, VG_100K/5.jpg"),
    vg.REPEATED_FILE: told(1, "image 6, VG_100K/1.jpg"),
    vg.REPEATED_IMAGE: told(1, "image 1, record 3"),
    vg_boxes.NO_RECORD: told(1, "image 8, VG_100K/8.jpg"),
    vg_boxes.NO_OBJECTS: told(1, "image 9, VG_100K/9.jpg"),
    "no box of a class": told(1, "image 10, VG_100K/10.jpg"),
}
OBJECTS_LEFT_OUT = {
    vg_boxes.OUTSIDE: told(2, "image 1, object 103 (trees)", "image 1, object 104 (trees)"),
    vg_boxes.EMPTY: told(2, "image 1, object 105 (trees)", "image 1, object 106 (trees)"),
    vg_boxes.NO_SYNSET: told(
        3, *(f"image 1, object {k}" for k in ("107 (trees)", "108 (trees)", "111 (oak)"))
    ),
    vg_boxes.SEVERAL_SYNSETS: told(1, "image 1, object 109 (trees)"),
    vg_boxes.NO_BOX: told(2, "image 1, object 112 (trees)", "image 1, object 113 (trees)"),
    vg_boxes.NOT_AN_OBJECT: told(1, "image 1, object at index 14 (?)"),
    vg_boxes.REPEATED_ID: told(1, "image 1, object 100 (trees)"),
    vg_boxes.REPEATED_BOX: told(
        2, "image 1, object 114 (trees)", "image 1, object at index 18 (trees)"
    ),
    vg_boxes.THIN: told(1, "image 1, object 115 (trees)"),
    vg_boxes.REPEATED_RECORD: told(2, "image 2, record 2, 2 objects"),
    vg_boxes.NO_IMAGE: told(1, "image 99, record 3, 1 objects"),
    vg_boxes.OF_LEFT_OUT: told(1, "image 5, record 4, 1 objects"),
}
MENDED = {
    vg.NO_COCO_ID: told(1, "image 7, record 7"),
    vg_boxes.CLIPPED: told(2, "image 1, object 101 (trees)", "image 1, object 102 (trees)"),
    vg_boxes.NO_OBJECT_ID: told(1, "image 1, object at index 17 (trees)"),
}
BOXES = {
    "train": [
        (1, "tree.n.01", 10, 10, 20, 30),
        (1, "tree.n.01", 0, 10, 15, 10),
        (1, "sidewalk.n.01", 90, 70, 10, 10),
        (1, "tree.n.01", 1, 1, 5, 5),
        (1, "tree.n.01", 30, 30, 9, 9),
        (2, "street.n.01", 10, 10, 20, 30),
        (3, "tree.n.01", 10, 10, 20, 30),
        (7, "tree.n.01", 10.5, 10, 20, 30),
    ],
    "val": [(31, "tree.n.01", 10, 10, 20, 30)],
    "test": [(32, "tree.n.01", 10, 10, 20, 30), (32, "tree.n.01", 0, 0, 100, 80)],
}
