"""What the cases are made of: computations with their leaves, and errors against float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .case import OURS, Variant

ACCURATE = {  # what `errors` may find; some single gradients are small sums of large numbers
    "float32 output": 1e-5,
    "float32 gradients": 5e-5,
    "float64 output": 1e-12,
    "float64 gradients": 1e-12,
}


@dataclass(frozen=True)
class Computation:
    """A function of tensors that are made before it is called.

    Attributes:
        function: computes the operator.
        leaves: the inputs and parameters that get a gradient.
        is_peer: see `Variant`.
    """

    function: Callable[[], Tensor]
    leaves: Sequence[Tensor]
    is_peer: bool = True


def upstream(output: Tensor) -> Tensor:
    """A gradient for the output, the same in every run and every dtype, nowhere constant."""
    steps = torch.arange(output.numel(), dtype=torch.float64) * 0.7
    return steps.sin().view(output.shape).to(output)


def variants(computations: Mapping[str, Computation]) -> dict[str, Variant]:
    """The computations as variants of a case; the backward ones share one upstream gradient."""
    with torch.no_grad():
        gradient = upstream(computations[OURS].function())

    def variant(c: Computation) -> Variant:
        return Variant(
            forward=c.function,
            backward=lambda: torch.autograd.grad(c.function(), c.leaves, gradient),
            is_peer=c.is_peer,
        )

    return {name: variant(c) for name, c in computations.items()}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference to norm."""
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / expected.norm())


def errors(ours: Mapping[torch.dtype, Computation], truth: Computation) -> dict[str, float]:
    """Relative errors of the output and, the largest, of the gradients, for each dtype.

    Args:
        ours: by dtype, float32 and float64.
        truth: another way to compute it, in float64, with the same leaves. Gradients that vanish
            (a bias before a softmax) are left out.
    """
    expected = truth.function()
    expected_gradients = torch.autograd.grad(expected, truth.leaves, upstream(expected))
    least = 1e-9 * max(float(g.norm()) for g in expected_gradients)
    found = {}
    for dtype, computation in ours.items():
        output = computation.function()
        gradients = torch.autograd.grad(output, computation.leaves, upstream(output))
        name = str(dtype).removeprefix("torch.")
        found[f"{name} output"] = relative_error(output, expected)
        found[f"{name} gradients"] = max(
            relative_error(g, e)
            for g, e in zip(gradients, expected_gradients, strict=True)
            if float(e.norm()) > least
        )
    return found
