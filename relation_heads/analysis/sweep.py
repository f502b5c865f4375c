"""Every stock config of Detectron2 with every registered head, by `MODEL.ROI_HEADS.NAME` alone.

A cell is one config with one head. It is "ok" if the model, shrunk, loads every stock weight,
detects, trains a step, and trains on images without objects where the stock model does; it is
"refused" if the check of the config says in one sentence why the two do not fit, before anything is
built; else it "FAILED". Where a head promises the stock detector, its detections and losses are
compared with the stock model's of the same weights.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ..config import get_cfg, merge_file
from .shrink import images, settle, shrink

STOCK_CONFIGS = Path(detectron2.__file__).resolve().parent / "model_zoo" / "configs"
# Mechanism -> keys that switch it off: such a head is the stock head, bit for bit.
OFF: dict[str, list[Any]] = {
    "Relation": ["MODEL.RELATION.NUM_RELATIONS", [0, 0]],
    "SGRN": ["MODEL.SGRN.GRAPH_DIMS", []],
    "ReasoningRCNN": ["MODEL.REASONING_RCNN.CHANNELS", 0],
    "Reasoning": ["MODEL.REASONING.MODULES", []],
    "DuplicateRemoval": [],
    "Context": [],
}
# Mechanisms that start as the identity: detections of the untrained head are the stock ones.
STARTS_AS_STOCK = ("Relation",)
ROUNDING = 1e-5  # of scores, and of boxes in units of 10 pixels

# Of a merged config, the path of its YAML, and the overrides. Raises ValueError: a title and one
# line per problem, or one line alone.
Check = Callable[[CfgNode, str, list[Any]], None]


class SweepError(Exception):
    """What a head does that it should not."""


@dataclass(frozen=True)
class Cell:
    """One config with one head.

    Args:
        config: a name below `STOCK_CONFIGS`.
        head: a name in the registry of ROI heads.
        result: "ok", "refused" or "FAILED".
        reason: the sentence of the check, or what failed.
        compared: what was compared with the stock model.
        seconds: that it took, with the stock model if that was not built before.
    """

    config: str
    head: str
    result: str
    reason: str = ""
    compared: tuple[str, ...] = ()
    seconds: float = 0.0


def stock_configs() -> list[str]:
    """Names of Detectron2's configs, without bases and quick schedules."""
    return [
        str(path.relative_to(STOCK_CONFIGS))
        for path in sorted(STOCK_CONFIGS.glob("*/*.yaml"))
        if not path.name.startswith("Base") and path.parent.name != "quick_schedules"
    ]


def registered_heads(packages: Sequence[str] = ("relation_heads",)) -> list[str]:
    """Names of the ROI heads that these packages or modules registered.

    Heads of region classification are left out: no stock config gives them boxes.
    """
    return sorted(
        name
        for name, cls in ROI_HEADS_REGISTRY
        if any(f"{cls.__module__}.".startswith(f"{package}.") for package in packages)
        and "RegionClassification" not in name
    )


def mechanism_of(head: str) -> str:
    """`SGRN` of `Res5SGRNROIHeads`."""
    return re.sub("Res5|Cascade|ROIHeads", "", head)


def pairs(
    configs: Iterable[str], heads: Sequence[str], *, tenth: bool = False, seed: int = 0
) -> list[tuple[str, str]]:
    """All (config, head), or every tenth of an order that depends on the seed alone."""
    found = [(config, head) for config in configs for head in heads]
    if not tenth:
        return found
    order = random.Random(seed).sample(range(len(found)), len(found))
    return [found[k] for k in sorted(order[::10])]


def sweep(
    configs: Iterable[str],
    heads: Sequence[str],
    check: Check,
    *,
    tenth: bool = False,
    seed: int = 0,
) -> Iterator[Cell]:
    """Tries all cells, config after config.

    Args:
        configs: names below `STOCK_CONFIGS`, or paths.
        heads: names in the registry of ROI heads.
        check: what a run calls before it builds its model.
        tenth: as in `pairs`.
        seed: of weights, images, samples, and as in `pairs`.

    Yields:
        what happened.
    """
    stock: Stock | None = None
    for config, head in pairs(configs, heads, tenth=tenth, seed=seed):
        if stock is None or stock.name != config:
            stock = Stock(config, check, seed)
        start = time.perf_counter()
        try:
            result = ("refused", reason) if (reason := refusal(stock, head)) else ("ok", "")
            compared = tuple(trial(stock, head)) if not reason else ()
        except Exception as error:
            result, compared = ("FAILED", _one_line(error)), ()
        yield Cell(config, head, *result, compared, round(time.perf_counter() - start, 2))


class Stock:
    """A stock config, its shrunk model, and what that finds and learns."""

    def __init__(self, name: str, check: Check, seed: int) -> None:
        self.name, self.check, self.seed = name, check, seed
        self.path = str(STOCK_CONFIGS / name)
        self.cfg = get_cfg()
        merge_file(self.cfg, self.path)
        self.cfg.MODEL.DEVICE = "cpu"
        self.small = shrink(self.cfg)
        self.inputs = images(self.small, seed=seed)
        self.without_objects = images(self.small, objects=0, seed=seed)

    @cached_property
    def problems(self) -> list[str]:
        """What the check says to the stock config itself, for example of files that are missing."""
        return self.problems_with([])

    def problems_with(self, opts: list[Any]) -> list[str]:
        """The lines of the check to the whole config with these overrides."""
        cfg = self.cfg.clone()
        cfg.merge_from_list(opts)
        try:
            self.check(cfg, self.path, opts)
        except ValueError as error:
            lines = str(error).splitlines()
            return [line.removeprefix("- ") for line in lines[1:] or lines]  # the first is a title
        return []

    @cached_property
    def needs_objects(self) -> bool:
        """Whether the stock model stops at images without objects (SyncBN in a head does)."""
        try:
            self.losses(self.build(), self.without_objects)
        except AssertionError:
            return True
        return False

    @cached_property
    def results(self) -> tuple[dict[str, Tensor], list[dict[str, Tensor]], dict[str, Tensor]]:
        """Weights, detections and losses."""
        model = self.build()
        settle(model, self.inputs)
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        return weights, self.detections(model), self.losses(model, self.inputs)

    def build(self, *opts: Any) -> nn.Module:
        """The shrunk model with other options."""
        cfg = self.small.clone()
        cfg.merge_from_list(list(opts))
        torch.manual_seed(self.seed)
        return build_model(cfg)

    def detections(self, model: nn.Module) -> list[dict[str, Tensor]]:
        """The fields that the model finds in every image."""
        for module in model.modules():
            if hasattr(module, "test_score_thresh"):
                module.test_score_thresh = 0.0
        with torch.no_grad():
            found = model.eval()(self.inputs)
        return [_tensors(image.get("instances")) for image in found]

    def losses(self, model: nn.Module, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The losses of one step, from the same state of all samplers."""
        torch.manual_seed(self.seed)
        with EventStorage():
            return model.train()(inputs)


def refusal(stock: Stock, head: str) -> str:
    """The sentence with which the check refuses the head, empty if it does not.

    Raises:
        SweepError: there are several sentences.
    """
    found = stock.problems_with(["MODEL.ROI_HEADS.NAME", head])
    problems = [p for p in found if p not in stock.problems]
    if len(problems) > 1:
        raise SweepError(f"refused in {len(problems)} sentences: {' '.join(problems)}")
    return problems[0] if problems else ""


def trial(stock: Stock, head: str) -> list[str]:
    """Builds, loads, detects and trains; says what was compared with the stock model.

    Raises:
        Exception: whatever does not work, `SweepError` for what works wrongly.
    """
    weights, detections, losses = stock.results
    mechanism, compared = mechanism_of(head), []
    model = _built(stock, head, weights)
    found = stock.detections(model)
    if mechanism in STARTS_AS_STOCK:
        _assert_same("detections at the start", found, detections, ROUNDING)
        compared.append("detections at the start, up to rounding")
    _assert_finite("scores", {str(k): image["scores"] for k, image in enumerate(found)})
    _train(stock, model)
    if mechanism in OFF:
        off = _built(stock, head, weights, *OFF[mechanism])
        _assert_same("detections with the mechanism off", stock.detections(off), detections)
        _assert_same("losses with the mechanism off", [stock.losses(off, stock.inputs)], [losses])
        compared += ["detections, off, exactly", "losses, off, exactly"]
    return compared


def _built(stock: Stock, head: str, weights: dict[str, Tensor], *opts: Any) -> nn.Module:
    """The model with this head and every weight of the stock model."""
    model = stock.build("MODEL.ROI_HEADS.NAME", head, *opts)
    if not any(type(m) is ROI_HEADS_REGISTRY.get(head) for m in model.modules()):
        raise SweepError("the model is built without the head, and the check did not say so")
    ours = model.state_dict()
    lost = [k for k, v in weights.items() if k not in ours or ours[k].shape != v.shape]
    if lost:
        raise SweepError(f"{len(lost)} stock keys are lost, first {lost[0]}")
    model.load_state_dict(weights, strict=False)
    return model


def _train(stock: Stock, model: nn.Module) -> None:
    """A step with objects, then one without, where the stock model can do that."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=1e-4)
    for name, inputs in (("", stock.inputs), (" without objects", stock.without_objects)):
        if inputs is stock.without_objects and stock.needs_objects:
            return
        losses = stock.losses(model, inputs)
        _assert_finite(f"losses{name}", losses)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        gradients = {n: p.grad for n, p in trained.items() if p.grad is not None}
        _assert_finite(f"gradients{name}", gradients)
        optimizer.step()


def _tensors(instances: Instances | None) -> dict[str, Tensor]:
    fields = instances.get_fields() if instances is not None else {}
    return {n: f.tensor if isinstance(f, Boxes) else f for n, f in fields.items()}


def _assert_finite(what: str, values: dict[str, Tensor]) -> None:
    wrong = [name for name, value in values.items() if not value.isfinite().all()]
    if wrong:
        raise SweepError(f"{what} are not finite: {', '.join(wrong[:3])}")


def _assert_same(
    what: str,
    ours: list[dict[str, Tensor]],
    theirs: list[dict[str, Tensor]],
    tolerance: float = 0.0,
) -> None:
    """Compares tensors by name; floats may differ by `tolerance`, boxes and masks by 10 times."""
    for a, b in zip(ours, theirs, strict=True):
        if a.keys() != b.keys():
            raise SweepError(f"{what}: {', '.join(sorted(a.keys() ^ b.keys()))} on one side only")
        for name in b:
            if a[name].shape != b[name].shape:
                shapes = f"{tuple(a[name].shape)} instead of {tuple(b[name].shape)}"
                raise SweepError(f"{what}: {name} is {shapes}")
            worst = (a[name].double() - b[name].double()).abs().max() if b[name].numel() else 0.0
            if not worst <= tolerance * (1 if name == "scores" else 10):
                raise SweepError(f"{what}: {name} differs from the stock model by {worst:.1e}")


def _one_line(error: Exception) -> str:
    """The error on one line, with the place of one that says nothing."""
    text = " ".join(str(error).split())
    if isinstance(error, SweepError):
        return text
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    place = f" ({Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno})" if frame else ""
    return f"{type(error).__name__}: {text[:200]}{place}"


def table(cells: Sequence[Cell]) -> str:
    """Markdown: configs down, heads across; sentences are numbered and follow once each, with `...`
    for the name of the mechanism."""
    heads = sorted({cell.head for cell in cells})
    by_place = {(cell.config, cell.head): cell for cell in cells}
    numbers: dict[str, int] = {}
    lines = ["| | " + " | ".join(heads) + " |", "|:--" * (len(heads) + 1) + "|"]
    for config in dict.fromkeys(cell.config for cell in cells):
        row = [config.removesuffix(".yaml")]
        for head in heads:
            cell = by_place.get((config, head))
            if cell and cell.reason:
                reason = cell.reason.replace(f"{mechanism_of(cell.head)}ROIHeads", "...ROIHeads")
                number = numbers.setdefault(reason, len(numbers) + 1)
                row.append(f"{cell.result} [{number}]")
            else:
                row.append(cell.result if cell else "")
        lines.append("| " + " | ".join(row) + " |")
    lines += ["", *(f"[{number}] {reason}" for reason, number in numbers.items())]
    counts = {r: sum(c.result == r for c in cells) for r in ("ok", "refused", "FAILED")}
    exact = sum(bool(cell.compared) for cell in cells)
    lines += ["", ", ".join(f"{n} {result}" for result, n in counts.items())
              + f" of {len(cells)} cells; {exact} were compared with the stock model."]  # fmt: skip
    return "\n".join(lines)
