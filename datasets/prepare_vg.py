#!/usr/bin/env python
"""Visual Genome as a detection data set in COCO format, with the vocabulary of a paper.

TOOL="python datasets/prepare_vg.py --vg-root DIR --output DIR"
$TOOL                                    # VG3000, evaluated on images that COCO does not have
$TOOL --vocabulary vg1000
$TOOL --coco-val instances_val2017.json  # val: the images that COCO evaluates on
$TOOL --split random --seed 0
$TOOL --check-images DIR                 # decodes all images and takes the sizes they have

Reads objects.json and image_data.json of Visual Genome (1.2 or later) in --vg-root. An object is
kept if it has exactly one synset, which is a class, and a pixel of its box is in the image; an
image, if it has such an object. Vocabularies:

- vg3000: the 3000 synsets that are published with HKRM and used by SGRN, in their order.
- vg1000: the 1000 synsets with most boxes in the training images at hand, most frequent first and
  then by name. The papers' list is not published; it counts all images, so it may differ.
- vg3993: of iterative visual reasoning. A box for each synset of an object; the synsets with at
  least 5 boxes in the training images, or those of --classes FILE. With --split random test and val
  have as many images as in the paper, 4,000 and 4,077.
- vg150: the 150 names of scene-graph papers, with --split scene-graph. It needs --aliases FILE:
  data_tools/VG/object_alias.txt of github.com/danfeiX/scene-graph-TF-release.
- vg1600: the 1,600 names of bottom-up attention, with --split-lists FOLDER: the train.txt, val.txt
  and test.txt (98,077, 5,000, 5,000 images) in data/genome of
  github.com/peteanderson80/bottom-up-attention.

Splits: --held-out images each for test and val, the others for train. `leak-free`: the last images
that are not of COCO, and the last ones before them. `random`: by --seed. `scene-graph`: the first
70 % of image_data.json are train, the first of these val, and the others test. They are drawn from
all images that image_data.json lists, and so are the same for all vocabularies; images that turn
out to have no box are then left out.

Writes under --output, with the same bytes each time:

  annotations/VOCABULARY_SPLIT.json  train, val and test; categories from 1; `file_name` from the
                                     folder that has VG_100K and VG_100K_2
  VOCABULARY_classes.txt             a class per line in that order
  VOCABULARY_report.json             what was counted, mended and left out, by reason; if a split
                                     has no box, that as well
  vg_image_sizes.jsonl               of --check-images: a file that did not change since is not
                                     decoded again
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def run(args: argparse.Namespace) -> None:
    """Reads Visual Genome, writes all files and says what is in them."""
    from relation_heads.data.visual_genome.files import prepare

    prepare(args)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from relation_heads.command_line import new_parser
    from relation_heads.commands.model import at_least_1

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--vg-root", type=Path, required=True, help="folder of objects.json and image_data.json")
    add("--output", type=Path, required=True, help="folder to write")
    add("--vocabulary", choices=("vg3000", "vg1000", "vg3993", "vg150", "vg1600"),
        default="vg3000", help="%(default)s")  # fmt: skip
    add("--classes", type=Path, metavar="FILE",
        help="a class per line, or class:count of at least 5 (vg1000, vg3993)")  # fmt: skip
    add("--aliases", type=Path, metavar="FILE", help="a name and its aliases per line (vg150)")
    add("--split", choices=("leak-free", "random", "scene-graph"), default="leak-free",
        help="%(default)s")  # fmt: skip
    add("--split-lists", type=Path, metavar="FOLDER", help="instead: has train.txt, val.txt, ...")
    add("--seed", type=int, help="of --split random (default: 0)")
    add("--held-out", type=at_least_1, nargs="+", metavar="N",
        help="images of test, and of val (5000; vg3993: 4000 4077)")  # fmt: skip
    add("--coco-val", type=Path, metavar="JSON",
        help="COCO's annotations of val2017: its images become val (leak-free)")  # fmt: skip
    add("--check-images", type=Path, metavar="DIR", help="folder of VG_100K and VG_100K_2")
    add("--workers", type=at_least_1, default=4, help="threads that decode images (%(default)s)")
    args = parser.parse_args(argv)
    args.held_out = args.held_out or ([4000, 4077] if args.vocabulary == "vg3993" else [5000])
    if len(args.held_out) > 2:
        parser.error("--held-out has one number, or that of test and that of val")
    args.held_out = [args.held_out[0], args.held_out[-1]]
    if args.coco_val and (args.split != "leak-free" or args.split_lists):
        parser.error("--coco-val is for --split leak-free")
    if args.split_lists and args.split != "leak-free":
        parser.error("--split-lists stands for --split")
    if args.classes and args.vocabulary not in ("vg1000", "vg3993"):
        parser.error("--classes is for vg1000 and vg3993: the others have their list")
    if (args.vocabulary == "vg150") != bool(args.aliases):
        parser.error("--vocabulary vg150 and --aliases belong together")
    if args.split != "random" and args.seed is not None:
        parser.error("--seed is for --split random")
    if args.split == "random" and args.seed is None:
        args.seed = 0
    return args


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()
