"""A traced function must not remember the sizes at which it was traced."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Inputs = Sequence[Tensor]


def assert_traces(
    function: Callable[..., Any], first: Inputs, *others: Inputs, atol: float = 1e-9
) -> None:
    """`torch.jit.trace` at `first`, saved and loaded, gives what `function` gives at all inputs.

    There is no TracerWarning about our code, that something became a constant.
    """
    with torch.no_grad():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            traced = torch.jit.trace(function, tuple(first), check_trace=False)
        constants = [
            w
            for w in caught
            if issubclass(w.category, torch.jit.TracerWarning) and "/torch/" not in w.filename
        ]
        assert not constants, [f"{w.filename}:{w.lineno}: {w.message}" for w in constants]
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        loaded = torch.jit.load(file)
        for inputs in (first, *others):
            torch.testing.assert_close(
                loaded(*inputs), function(*inputs), rtol=0, atol=atol, equal_nan=True
            )
