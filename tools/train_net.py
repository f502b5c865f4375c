#!/usr/bin/env python
"""Train and evaluate any Detectron2 model, stock or relational, from a YAML.

    tools/train_net.py --config-file COCO-Detection/faster_rcnn_R_50_FPN_relation_1x.yaml --num-gpus
    8 tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
    tools/train_net.py --config-file ... --dataset my_train my/train.json my/images \\
        --dataset my_val my/val.json my/images \\
        DATASETS.TRAIN "('my_train',)" DATASETS.TEST "('my_val',)" MODEL.ROI_HEADS.NUM_CLASSES 12

The config may be a path, or a name below this project's configs/ or Detectron2's own. Without a GPU
add `MODEL.DEVICE cpu`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    import relation_heads
except ModuleNotFoundError:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import relation_heads

try:
    from detectron2.engine import hooks, launch
    from detectron2.evaluation import verify_results
    from detectron2.utils import comm
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    sys.exit(relation_heads.DETECTRON2_HELP)

from relation_heads.engine import RelationTrainer
from relation_heads.engine.setup import argument_parser, setup_cfg


def main(args: argparse.Namespace) -> dict | None:
    """One process of the run; returns the evaluation results."""
    try:
        cfg = setup_cfg(args)
    except (FileNotFoundError, KeyError, ValueError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error  # str() would quote it
        sys.exit(f"{Path(__file__).name}: {message}")
    if args.eval_only:
        results = RelationTrainer.evaluate(cfg, resume=args.resume)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = RelationTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if cfg.TEST.AUG.ENABLED:
        trainer.register_hooks(
            [hooks.EvalHook(0, lambda: trainer.test_with_TTA(cfg, trainer.model))]
        )
    return trainer.train()


def invoke_main() -> None:
    """Parses the command line and starts the processes."""
    args = argument_parser(epilog=__doc__).parse_args()
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    invoke_main()
