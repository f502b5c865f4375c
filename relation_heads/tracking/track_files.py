"""What `tools/track.py` does: sequences, videos and folders of images in, MOT files out."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..engine.image_files import Video, find_images, names_in_one_folder
from ..engine.predictor import load
from ..visualization.detections import Detections, write_image
from .methods import METHODS, Online
from .metrics import evaluate
from .mot_files import MotRows, write_mot
from .pictures import Shown, strip
from .sequences import find_sequences, follow

PRINTED = ("IDF1", "HOTA", "MOTA", "IDSW")


def track_files(args: argparse.Namespace) -> None:
    """See `tools/track.py`.

    Raises:
        OSError, ValueError: a file, key or value is wrong.
    """
    if args.model is None:
        track_sequences(args)
    else:
        track_videos(args)


def track_sequences(args: argparse.Namespace) -> None:
    """The detections of MOT sequences. Scores are printed where there is ground truth."""
    sequences = find_sequences([Path(word) for word in args.inputs])
    truth, found = {}, {}
    for sequence in sequences:
        tracks = follow(sequence.detections(), METHODS[args.tracker](1, sequence.image_size))
        write_mot(tracks, args.output / f"{sequence.name}.txt")
        known = sequence.truth()
        if known is not None:
            truth[sequence.name], found[sequence.name] = known, tracks
    for name, scores in evaluate(truth, found).items() if truth else ():
        print(f"{name}: {', '.join(f'{k} {scores[k]:.4g}' for k in PRINTED)}")
    print(f"Tracks of {len(sequences)} sequences in {args.output}")


@dataclass(frozen=True)
class Footage:
    """Frames of one camera.

    Attributes:
        source: a folder of images, or a video.
        files: the images of the folder, sorted.
        video: the video.
    """

    source: str
    files: Sequence[str] = ()
    video: Video | None = None

    def open(self) -> tuple[int, Iterable[np.ndarray | str]]:
        """Number of frames (0: not known), and the frames.

        Raises:
            OSError: the video cannot be read.
        """
        if self.video is None:
            return len(self.files), self.files
        _, count, frames = self.video.open()
        return count, frames


def find_footage(words: Sequence[str]) -> list[Footage]:
    """What words of a command line mean: videos, and folders, whose images are one video.

    Raises:
        FileNotFoundError: a word means nothing.
        ValueError: a word is a single image.
    """
    found = []
    for word in words:
        files, videos = find_images([word])
        if files and not Path(word).is_dir():
            raise ValueError(f"{word} is no video: give one, or a folder whose images are one.")
        found += [Footage(str(Path(word).resolve()), files)] if files else []
        found += [Footage(video.source, video=video) for video in videos]
    return found


def track_videos(args: argparse.Namespace) -> None:
    """The detections of a model."""
    footage = find_footage(args.inputs)  # before the model is built
    names = names_in_one_folder([one.source for one in footage])
    predictor = load(args.model, device=args.device, opts=args.opts)
    if args.class_name and args.class_name not in predictor.class_names:
        raise ValueError(
            f"--class {args.class_name} is none of: {', '.join(predictor.class_names)}."
        )
    for one in footage:
        count, frames = one.open()
        stream = predictor.stream(frames, features=True)
        rows, shown = track_detections(
            tqdm(stream, total=count or None, unit="frame", disable=None),
            tracker=args.tracker, min_score=args.min_score, class_name=args.class_name,
            pictures=chosen(count, args.pictures),
        )  # fmt: skip
        write_mot(rows, args.output / f"{names[one.source]}.txt")
        if shown:
            write_image(args.output / f"{names[one.source]}.jpg", strip(shown))
        print(f"{one.source}: {rows.last} frames, {len(np.unique(rows.ids))} identities")
    print(f"Tracks in {args.output}")


def chosen(count: int, pictures: int) -> set[int]:
    """Numbers of frames to show: even parts of `count` frames; of an unknown number, 0, every
    25th."""
    if not count:
        return set(range(1, 25 * pictures, 25))
    return set(np.linspace(1, count, pictures).round().astype(int).tolist())


def track_detections(
    stream: Iterable[Detections],
    *,
    tracker: str,
    min_score: float = 0.0,
    class_name: str | None = None,
    pictures: Collection[int] = (),
) -> tuple[MotRows, list[Shown]]:
    """Detections with identities, frame by frame; those without one are left out.

    Args:
        stream: of the frames of one video, with features.
        tracker: name of a method, see `methods.METHODS`.
        min_score: detections below are left out.
        class_name: of what is followed; None: everything, and a track may change its class.
        pictures: numbers of frames, from 1.

    Returns:
        the detections, and the frames of `pictures`.

    Raises:
        ValueError: frames of different sizes.
    """
    online: Online | None = None
    size = (0, 0)
    shown: list[Shown] = []
    parts: list[MotRows] = []
    for frame, found in enumerate(stream, start=1):
        assert found.features is not None
        if online is None:
            size = found.image.shape[0], found.image.shape[1]
            online = METHODS[tracker](found.features.shape[1], size)
        if found.image.shape[:2] != size:
            raise ValueError(
                f"Frames of a video must have one size: frame {frame} ({found.file_name}) is "
                f"{found.image.shape[:2]}, frame 1 is {size}."
            )
        kept = found.scores >= min_score
        if class_name is not None:
            kept &= np.array([name == class_name for name in found.names], dtype=bool)
        where, features, sure = found.boxes[kept], found.features[kept], found.scores[kept]
        ids = online.update(*map(torch.from_numpy, (where, features, sure))).numpy()
        frames = np.full(len(ids), frame, dtype=np.int64)
        here = MotRows(frames, ids, where.astype(np.float64), sure.astype(np.float64))
        parts.append(here.take(ids >= 0))
        if frame in pictures:
            shown.append(Shown(frame, found.image, parts[-1].boxes, parts[-1].ids))
    return MotRows.together(parts), shown
