"""What is measured: an operator at one size, computed in several ways; what ours must reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Function = Callable[[], object]

OURS = "ours"  # the variant that the targets are about


@dataclass(frozen=True)
class Variant:
    """One way to compute an operator.

    Attributes:
        forward: computes it; is called without gradients.
        backward: computes it and its gradients; None where that is not measured.
        is_peer: whether the targets compare with it. Variants that are shown for information alone
            (a slow official order of operations) are not.
    """

    forward: Function | None
    backward: Function | None = None
    is_peer: bool = True


@dataclass(frozen=True)
class Target:
    """What `OURS` must reach, each against the best peer in that quantity; None: nothing.

    Attributes:
        forward, backward: least ratio, time of the fastest peer to ours, of the forward pass and of
            forward and backward together.
        forward_memory, backward_memory: greatest ratio, our peak memory to the leanest peer's.
        forward_mib, backward_mib: greatest peak memory, MiB.
        errors: greatest values of `Case.errors`, by name.
    """

    forward: float | None = None
    backward: float | None = None
    forward_memory: float | None = None
    backward_memory: float | None = None
    forward_mib: float | None = None
    backward_mib: float | None = None
    errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One operator at one size.

    Attributes:
        variants: by name, `OURS` first; all compute the same from the same inputs.
        target: what ours must reach; None to measure only.
        errors: computes, by name, how far ours is from the truth: relative errors against float64
            (norm of the difference to norm), or counts of differing results. It is the same in
            every run.
    """

    variants: Mapping[str, Variant]
    target: Target | None = None
    errors: Callable[[], Mapping[str, float]] | None = None
