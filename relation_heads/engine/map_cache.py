"""Maps of a frozen backbone, made once for every image: heads on top of it train much faster.

With `MODEL.TRAIN_ONLY "['roi_heads.*']"` the same image gives the same maps in every epoch. They
are found by its pixels, after all augmentation, so flips are images of their own, and random sizes
or crops make the cache useless. Memory is pixels / stride^2 x channels x 4 bytes for every map: an
image of 320 x 448 with an FPN of 128 channels from stride 8 on takes 1.5 MB.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)
GIB = 2**30
Maps = dict[str, Tensor]


class MapCache:
    """A backbone's `forward`, which remembers.

    Args:
        make: (N, C, H, W) images -> maps by name, each (N, c, h, w).
        gib: memory for maps; what comes when it is full is not kept.
    """

    def __init__(self, make: Callable[[Tensor], Maps], gib: float) -> None:
        self.make = make
        self.room = int(gib * GIB)
        self.kept: dict[bytes, Maps] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Maps:
        """(N, C, H, W) images -> maps by name, each (N, c, h, w), without gradients."""
        keys = [digest(image) for image in images]
        found = {key: self.kept[key] for key in keys if key in self.kept}
        missing = {key: i for i, key in enumerate(keys) if key not in found}
        if missing:
            made = self.make(images[[*missing.values()]])
            for j, key in enumerate(missing):
                found[key] = {name: x[j].clone() for name, x in made.items()}
                self._keep(key, found[key])
        first = found[keys[0]]
        return {name: torch.stack([found[key][name] for key in keys]) for name in first}

    def _keep(self, key: bytes, maps: Maps) -> None:
        size = sum(x.nbytes for x in maps.values())
        if size <= self.room:
            self.kept[key] = maps
            self.room -= size
        elif self.room:
            self.room = 0  # nothing smaller squeezes in: the message is true from here on
            logger.warning(f"The maps of {len(self.kept)} images fill DATALOADER.CACHE_MAPS.")


def digest(image: Tensor) -> bytes:
    """Of the size and the pixels of an image."""
    pixels = image.contiguous().cpu().numpy()
    return hashlib.blake2b(str(pixels.shape).encode() + pixels.tobytes()).digest()


def cache_maps(model: nn.Module, gib: float) -> None:
    """Lets a model's backbone remember its maps; 0 changes nothing.

    Args:
        model: with a `backbone`; changed in place. Names in the `state_dict` stay.
        gib: `DATALOADER.CACHE_MAPS`.

    Raises:
        ValueError: a parameter of the backbone is trained; names it.
    """
    if not gib:
        return
    backbone = model.get_submodule("backbone")
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            raise ValueError(
                f"DATALOADER.CACHE_MAPS {gib} is for a frozen backbone, and backbone.{name} is "
                "trained: set MODEL.TRAIN_ONLY \"['roi_heads.*']\", or CACHE_MAPS 0.0."
            )
    backbone.forward = MapCache(backbone.forward, gib)
