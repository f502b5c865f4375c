"""An image, however it comes, as (H, W, 3) uint8 BGR."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from PIL import Image as PILImage
from torch import Tensor

Image = str | os.PathLike[str] | np.ndarray | Tensor | PILImage.Image


def to_bgr(image: Image) -> np.ndarray:
    """An image as (H, W, 3) uint8 BGR.

    Raises:
        OSError: a file is not there, or not an image.
        ValueError: something else is not an image.
    """
    if isinstance(image, str | os.PathLike):
        return _read(Path(image))
    if isinstance(image, PILImage.Image):
        return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
    if isinstance(image, Tensor):
        return _from_tensor(image)
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise ValueError(
            "An array must be (height, width, 3) uint8 in BGR order, as OpenCV reads it; got "
            f"{array.shape} {array.dtype}."
        )
    return np.ascontiguousarray(array)


def _read(path: Path) -> np.ndarray:
    """A file, turned as its EXIF data says."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path}.")
    try:
        return np.ascontiguousarray(read_image(str(path), format="BGR"))
    except Exception as error:
        raise OSError(f"{path} is not an image that can be read: {error}") from error


def _from_tensor(image: Tensor) -> np.ndarray:
    """(3, H, W) RGB to (H, W, 3) BGR."""
    floats = image.is_floating_point()
    good = image.ndim == 3 and image.shape[0] == 3 and image.numel() > 0
    if not good or not (floats or image.dtype == torch.uint8):
        raise ValueError(
            "A tensor must be (3, height, width) RGB, uint8 or float in 0 to 1; got "
            f"{tuple(image.shape)} {image.dtype}."
        )
    if floats:
        low, high = (float(x) for x in image.aminmax())
        if not (0 <= low and high <= 1):
            raise ValueError(
                f"A tensor of floats must be in 0 to 1, got {low:g} to {high:g}; pixels of 0 to "
                "255 are uint8."
            )
        image = (image * 255).round().to(torch.uint8)
    return np.ascontiguousarray(image.flip(0).permute(1, 2, 0).cpu().numpy())
