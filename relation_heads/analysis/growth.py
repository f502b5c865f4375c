"""Trains a config and writes down what grows, iteration by iteration, until it diverges or ends.

The file has, of every iteration, the losses, the sizes (root mean squares) of what
`engine.growth.Growth` records and of their gradients. Of the mechanisms of this package there is
more, under the name of the module and the symbol of the equation:

- `relation1.0:f`, `:logits` (eq. 4) and `:residual` of an `ObjectRelation`; of its logits also the
  standard deviation over the keys and the largest; the mean of its gate and the share of pairs at
  the gate's floor,
- `graph:f`, `:nodes` and `:scores` of an `SGRN`. Its z is the output of `graph.learner`, its h that
  of `graph` itself.

`curves` draws such files.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..data.files import read_json
from ..engine.growth import Growth
from ..engine.setup import setup_cfg
from ..layers import SGRN, ObjectRelation
from ..layers.geometry import MIN_GATE
from ..layers.object_relation.module import appearance_logits
from .curves import draw
from .measuring_trainer import MeasuringTrainer
from .provenance import provenance

TOOL = "tools/record_growth.py"
DIGITS = 5


class Probes:
    """What is inside `ObjectRelation` and `SGRN`, into a `Growth`.

    Attributes:
        numbers: what is no size of a tensor, by name and iteration; one for every image.
    """

    def __init__(self, model: nn.Module, growth: Growth) -> None:
        """
        Args:
            model: its relation modules are "simple" from here on: only those have logits.
            growth: of the same model.
        """
        self.growth = growth
        self.numbers: dict[str, dict[int, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        for name, module in model.named_modules():
            if isinstance(module, ObjectRelation):
                module.implementation = "simple"
                vars(module)["_relate"] = partial(self._relate, name, module)
                module.register_forward_hook(partial(self._relation, name))
            elif isinstance(module, SGRN):
                module.register_forward_pre_hook(partial(self._graph, name))
                module.convs[0].register_forward_pre_hook(partial(self._edges, name))

    def _note(self, name: str, number: Tensor) -> None:
        self.numbers[name][self.growth.iterations[-1]].append(number.detach())

    def _relation(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        features, _, *wanted = args
        own = features[wanted[0]] if wanted else features
        self.growth.add(f"{name}:f", features)
        self.growth.add(f"{name}:residual", (output - own).detach())

    def _relate(
        self,
        name: str,
        module: ObjectRelation,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        query_boxes: Tensor,
        key_boxes: Tensor,
    ) -> Tensor:
        """`ObjectRelation._relate` in its simple form, with logits that can be looked at."""
        projected = module.query(queries), module.key(keys), module.value(values)
        query, key, value = map(module._by_head, projected)
        logits = appearance_logits(query, key)
        log_gate = module._log_gate(query_boxes, key_boxes)
        if logits.numel():
            self.growth.add(f"{name}:logits", logits)
            self._note(f"{name}:logits std over keys", logits.std(-1, correction=0).mean())
            self._note(f"{name}:logits max", logits.abs().max())
            if log_gate is not None:
                gate = log_gate.exp()
                self._note(f"{name}:gate mean", gate.mean())
                self._note(f"{name}:gate share at floor", (gate < 1.01 * MIN_GATE).float().mean())
        weights = (logits if log_gate is None else logits + log_gate).softmax(dim=-1)
        return torch.einsum("hnm,mhd->nhd", weights.to(value.dtype), value)

    def _graph(self, name: str, module: nn.Module, args: Any) -> None:
        self.growth.add(f"{name}:f", args[0])

    def _edges(self, name: str, module: nn.Module, args: Any) -> None:
        nodes, graph = args[:2]
        self.growth.add(f"{name}:nodes", nodes)
        self.growth.add(f"{name}:scores", graph.scores[graph.valid])


def record(cfg: CfgNode) -> dict[str, Any]:
    """Trains for `SOLVER.MAX_ITER` iterations, or until it diverges.

    Returns:
        `diverged` (the report, or None), `iterations`, `first_to_grow` (sentences), and by name
        lists with one number for every iteration: `losses`, `sizes`, `gradients`, `numbers`. None
        where it was missing, "inf" and "nan" where it was not finite.
    """
    trainer = MeasuringTrainer(cfg)
    growth = trainer.growth = Growth(trainer._trainer.model, keep=cfg.SOLVER.MAX_ITER)
    probes = Probes(trainer.model, growth)
    diverged = trainer.diverged()
    iterations, series = growth.iterations, growth.series()
    numbers = {
        name: {i: _of_images(name, values) for i, values in by_iteration.items()}
        for name, by_iteration in probes.numbers.items()
    }
    row = partial(_row, iterations)
    return {
        "diverged": diverged,
        "first_to_grow": [f"{g} (from {g.since} on)" for g in growth.first_to_grow()],
        "iterations": iterations,
        "losses": {
            name: row(values)
            for name, values in trainer.history().items()
            if "loss" in name or name == "lr"
        },
        "sizes": {s.name: row(s.values) for s in series if not s.is_gradient},
        "gradients": {s.name: row(s.values) for s in series if s.is_gradient},
        "numbers": {name: row(values) for name, values in numbers.items()},
    }


def _of_images(name: str, values: list[Tensor]) -> float:
    """The largest of all images for a maximum, else their mean."""
    numbers = list(map(float, values))
    return max(numbers) if name.endswith("max") else sum(numbers) / len(numbers)


def _row(iterations: list[int], values: dict[int, float]) -> list[Any]:
    def written(i: int) -> Any:
        if i not in values:
            return None
        value = values[i]
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(abs(value))

    return [written(i) for i in iterations]


def _recording(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or "iterations" not in content:
        raise ValueError(f"{path} is no recording of {TOOL}.")
    return content


def record_or_draw(args: argparse.Namespace) -> None:
    """What `tools/record_growth.py` does with its arguments.

    Raises:
        FileNotFoundError, KeyError, ValueError: a file, key or value is wrong; says which.
    """
    args.output.parent.mkdir(parents=True, exist_ok=True)
    if args.draw:
        distinct = len({path.stem for path in args.draw}) == len(args.draw)
        files = {path.stem if distinct else str(path): _recording(path) for path in args.draw}
        args.output.write_text(draw(files, args.lines))
        print(f"Written to {args.output}.")
        return
    config = args.config_file  # as given; it becomes a path
    args.opts = [*args.opts, "SEED", str(args.seed), "DATASETS.TEST", "()"]
    cfg = setup_cfg(args)
    content = provenance(args.seed, TOOL)
    content["config"] = config
    content.update(record(cfg))
    args.output.write_text(json.dumps(content))
    print(content["diverged"] or f"No divergence in {cfg.SOLVER.MAX_ITER} iterations.")
    print(f"Written to {args.output}.")
