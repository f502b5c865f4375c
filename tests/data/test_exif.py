"""Images are turned as Detectron2 turns them when it reads them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.data.detection_utils import read_image

from relation_heads.data.exif import exif_orientation, upright_size

ORIENTATION = 0x0112  # the tag of it


@pytest.mark.parametrize("orientation", [None, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_as_detectron2_reads_it(tmp_path, orientation):
    values = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    path = tmp_path / "image.png"
    Image.fromarray(values).save(path, exif=exif)
    read = read_image(str(path), "RGB")
    with Image.open(path) as image:
        found = exif_orientation(image)
        assert upright_size(image.size, found) == read.shape[1::-1]
    assert (found == 1) == np.array_equal(read, values)


def test_broken_data_are_passed_over():
    class Broken:
        def getexif(self):
            raise SyntaxError("not a TIFF file")

    assert exif_orientation(Broken()) == 1
