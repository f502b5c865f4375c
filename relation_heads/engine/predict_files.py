"""What `relation-heads predict` does: files in, pictures, videos and a JSON file out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ..visualization.detections import Detections
from .image_files import Video, find_images, names_in_one_folder
from .predictor import Predictor, load


def predict_files(args: argparse.Namespace) -> None:
    """See `relation_heads.commands.predict`.

    Raises:
        OSError, ValueError: a file, key or value is wrong.
    """
    if args.no_pictures and args.json is None:
        raise ValueError("--no-pictures leaves nothing to write: give --json.")
    files, videos = find_images(args.images)  # before the model is built
    predictor = load(args.model, device=args.device, half=args.half, opts=args.opts)
    rows: list[dict[str, Any]] = []
    names = names_in_one_folder(files)
    skipped: list[str] = []

    def skip(file: Any, error: Exception) -> None:
        skipped.append(file)
        tqdm.write(f"Left out: {error}", file=sys.stderr)

    stream = predictor.stream(files, batch_size=args.batch_size, skip=skip)
    for found in tqdm(stream, total=len(files), unit="image", disable=len(files) < 2 or None):
        rows += results(found, found.file_name, args.min_score)
        if not args.no_pictures:
            found.save(args.output / f"{names[found.file_name]}.jpg", min_score=args.min_score)
        if len(files) == 1:
            print(found.above(args.min_score))
    for video in videos:
        rows += predict_video(predictor, video, args)
    if files and len(skipped) == len(files) and not videos:
        raise ValueError("None of the files is an image.")
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows))
        print(f"{len(rows)} detections in {args.json}")
    if not args.no_pictures:
        print(f"Pictures in {args.output}")


def results(found: Detections, image_id: Any, min_score: float) -> list[dict[str, Any]]:
    """COCO results of an image, with `class_name`."""
    return [
        {**row, "class_name": name}
        for row, name in zip(found.to_coco(image_id), found.names, strict=True)
        if row["score"] >= min_score
    ]


def predict_video(
    predictor: Predictor, video: Video, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Detects in every frame, and writes a video with the detections beside it.

    Returns:
        COCO results; `image_id` is the video's source and the number of the frame, from 0.
    """
    rate, count, frames = video.open()
    rows: list[dict[str, Any]] = []
    write, close = _video_writer(args.output / f"{video.name}.mp4", rate)
    stream = predictor.stream(frames, batch_size=args.batch_size)
    try:
        for i, found in enumerate(_until_stopped(stream, count)):
            rows += results(found, f"{video.source}#{i}", args.min_score)
            if not args.no_pictures:
                write(found.picture(min_score=args.min_score, min_side=1))
    finally:
        close()
    return rows


def _until_stopped(stream: Iterator[Detections], count: int) -> Iterator[Detections]:
    """With a progress bar; Ctrl-C ends it, and what was done counts."""
    try:
        yield from tqdm(stream, total=count or None, unit="frame", disable=None)
    except KeyboardInterrupt:
        print("Stopped.")


def _video_writer(
    path: Path, rate: float
) -> tuple[Callable[[np.ndarray], None], Callable[[], None]]:
    """`write(frame)` and `close()`; the first frame makes the file, since it has the size."""
    writer: list[cv2.VideoWriter] = []

    def write(frame: np.ndarray) -> None:
        if not writer:
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (frame.shape[1], frame.shape[0])
            writer.append(cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size))
            if not writer[0].isOpened():
                raise OSError(f"The video {path} cannot be written.")
        writer[0].write(frame)

    def close() -> None:
        for one in writer:
            one.release()

    return write, close
