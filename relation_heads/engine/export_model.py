"""A detector as TorchScript, or its box branch as ONNX, checked against itself at two sizes."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
from detectron2.export import TracingAdapter
from detectron2.structures import Instances
from torch import Tensor, nn

from .box_branch import BoxBranch, difference_of, example_of, export_branch, onnx_of
from .predictor import load

TOLERANCE = 1e-3  # of boxes in pixels, relative to their size


def export(args: argparse.Namespace) -> None:
    """What `relation-heads export` does.

    Raises:
        OSError, ValueError: a file, key or value is wrong, or the trace finds something else than
            the model.
    """
    predictor = load(args.model, device=args.device, opts=args.opts)
    model = predictor.model
    if args.output.suffix == ".onnx":
        _export_box_branch(model, args)
        return
    traced, outputs_of = trace(model, _image(model, args.height, args.width))
    for height, width in ((args.height, args.width), (args.height + 64, args.width + 96)):
        image = _image(model, height, width)
        problem = difference(inference(model, [{"image": image}])[0]["instances"],
                             outputs_of(traced(image)))  # fmt: skip
        if problem:
            raise ValueError(f"The trace of {args.model} at {height} x {width}: {problem}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.save(traced, str(args.output))
    fields = ", ".join(_fields(outputs_of(traced(image))))
    print(f"{args.output} written; it takes a (3, H, W) image in 0 to 255, "
          f"{predictor.cfg.INPUT.FORMAT}, and gives {fields}.")  # fmt: skip


def _export_box_branch(model: nn.Module, args: argparse.Namespace) -> None:
    """The box branch as ONNX, compared with the model for the regions of two images."""
    branch = BoxBranch(model.roi_heads)
    sizes = ((args.height, args.width), (args.height + 64, args.width + 96))
    examples = [example_of(model, _image(model, *size)) for size in sizes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of versions of ONNX
        content, run = onnx_of(export_branch(branch, examples[0]))
    for example in examples:
        with torch.no_grad():
            problem = difference_of(run(*example), branch(*example), TOLERANCE)
        if problem:
            raise ValueError(f"The ONNX file of {args.model} {problem}.")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_bytes(content)
    print(f"{args.output} written: the box branch, from pooled features and boxes of regions to "
          "their probabilities and boxes.")  # fmt: skip


def _image(model: nn.Module, height: int, width: int) -> Tensor:
    """The same noise every time."""
    generator = torch.Generator().manual_seed(0)
    return (255 * torch.rand(3, height, width, generator=generator)).to(model.device)


def inference(model: nn.Module, inputs: list[dict[str, Tensor]]) -> list[dict[str, Any]]:
    """Detections in the input's pixels, as `TracingAdapter` wants it."""
    return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]


@torch.no_grad()
def trace(
    model: nn.Module, image: Tensor
) -> tuple[torch.jit.ScriptModule, Callable[[Any], Instances]]:
    """A trace that holds for other sizes of image, and what makes `Instances` of its outputs.

    Args:
        model: a `GeneralizedRCNN` in evaluation mode.
        image: (3, H, W); something must be detected in it.

    Raises:
        ValueError: the model cannot be traced.
    """
    adapter = TracingAdapter(model, [{"image": image}], inference)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shapes that are constants; checked afterwards
            traced = torch.jit.trace(adapter, (image,), check_trace=False)
    except RuntimeError as error:
        raise ValueError(
            f"{type(model.roi_heads).__name__} cannot be traced: {str(error).splitlines()[0]}"
        ) from error
    return traced, lambda outputs: adapter.outputs_schema(outputs)[0]["instances"]


def _fields(found: Instances) -> list[str]:
    """In the order of the outputs."""
    return [name for name in found.get_fields()]


def difference(expected: Instances, found: Instances) -> str:
    """How detections differ, or "" if they do not."""
    if len(expected) != len(found):
        return f"it finds {len(found)} objects, the model {len(expected)}."
    if not torch.equal(expected.pred_classes, found.pred_classes):
        return "it finds other classes than the model."
    ours, theirs = expected.pred_boxes.tensor, found.pred_boxes.tensor
    if not torch.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
        return f"its boxes are up to {float((ours - theirs).abs().max()):.3g} pixels away."
    return ""
