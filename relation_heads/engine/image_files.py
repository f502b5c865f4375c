"""Images of a command line: files, folders, patterns, videos and webcams, one after the other."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


@dataclass(frozen=True)
class Video:
    """A video file, or a webcam by its number."""

    source: str

    @property
    def is_webcam(self) -> bool:
        """Whether it goes on until somebody stops it."""
        return self.source.isdecimal()

    @property
    def name(self) -> str:
        """Without folder and ending."""
        return f"webcam{self.source}" if self.is_webcam else Path(self.source).stem

    def open(self) -> tuple[float, int, Iterator[np.ndarray]]:
        """Frames a second (25 where it does not say), number of frames (0: not known), and the
        frames, (H, W, 3) uint8 BGR.

        Raises:
            OSError: it cannot be read.
        """
        capture = cv2.VideoCapture(int(self.source) if self.is_webcam else self.source)
        if not capture.isOpened():
            what = f"webcam {self.source}" if self.is_webcam else f"video {self.source}"
            raise OSError(f"The {what} cannot be opened.")
        rate = capture.get(cv2.CAP_PROP_FPS)
        count = 0 if self.is_webcam else int(capture.get(cv2.CAP_PROP_FRAME_COUNT))

        def frames() -> Iterator[np.ndarray]:
            try:
                while True:
                    there, frame = capture.read()
                    if not there:
                        return
                    yield frame
            finally:
                capture.release()

        return (rate if 0 < rate <= 1000 else 25.0), max(count, 0), frames()


def find_images(words: Sequence[str]) -> tuple[list[str], list[Video]]:
    """The image files, and the videos, that words of a command line mean.

    Args:
        words: a file, a folder (its images and videos, sorted, not those of folders in it), a
            pattern such as "photos/*.jpg" ("**" goes into folders), or the number of a webcam.

    Raises:
        FileNotFoundError: a word means nothing; says which.
    """
    images: dict[str, None] = {}
    videos: dict[Video, None] = {}
    for word in words:
        if word.isdecimal() and not os.path.exists(word):
            videos[Video(word)] = None
            continue
        if os.path.isdir(word):
            files = sorted(e.path for e in os.scandir(word) if e.is_file())
            files = [f for f in files if f.lower().endswith(IMAGES + VIDEOS)]
            nothing = f"The folder {word} has no images or videos."
        elif os.path.isfile(word):
            files, nothing = [word], ""
        else:
            files = sorted(f for f in glob.glob(word, recursive=True) if os.path.isfile(f))
            nothing = f"There is no image {word}."
        if not files:
            raise FileNotFoundError(nothing)
        for file in files:
            if file.lower().endswith(VIDEOS):
                videos[Video(file)] = None
            else:
                images[file] = None
    return list(images), list(videos)


def names_in_one_folder(files: Sequence[str]) -> dict[str, str]:
    """File -> a name without ending that no other file has: two `1.jpg` become `1` and `1_2`."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for file in files:
        stem = name = Path(file).stem
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        names[file] = name
    return names
