"""Cases of blocks: modules that take a feature map and return one of the same shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..case import OURS, Case, Target
from ..computation import Computation, errors, variants

Make = Callable[[int], nn.Module]  # from the number of channels
Form = Callable[[nn.Module, Tensor], Tensor]  # another way to compute the module
Size = tuple[int, int, int]  # channels, height, width


def block_problem(
    make: Make, size: Size, device: str, dtype: torch.dtype
) -> tuple[nn.Module, Tensor]:
    """A module and a map (1, *size), the same for every device and dtype."""
    torch.manual_seed(0)
    module = make(size[0]).to(device, dtype)
    return module, torch.randn(1, *size).to(device, dtype).requires_grad_()


def block_accuracy(make: Make, truth: Form, size: Size) -> dict[str, float]:
    """Errors of the module at a size at which `truth` is quick."""

    def computation(dtype: torch.dtype, form: Form) -> Computation:
        module, x = block_problem(make, size, "cpu", dtype)
        return Computation(lambda: form(module, x), [x, *module.parameters()])

    forms = {d: computation(d, lambda m, x: m(x)) for d in (torch.float32, torch.float64)}
    return errors(forms, computation(torch.float64, truth))


def block_case(
    make: Make,
    peers: Mapping[str, Form],
    size: Size,
    device: str,
    target: Target,
    accuracy: Callable[[], Mapping[str, float]],
) -> Case:
    """The module against `peers`, in float32, on a map of `size`."""
    module, x = block_problem(make, size, device, torch.float32)
    leaves = [x, *module.parameters()]
    forms = {OURS: Computation(lambda: module(x), leaves)}
    for name, form in peers.items():
        forms[name] = Computation(lambda form=form: form(module, x), leaves)
    return Case(variants(forms), target, accuracy)
