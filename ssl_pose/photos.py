"""Photos: read one, and cut a person out of it onto a canvas.

Integer coordinates are pixel centres. A crop matrix is one scale and a shift, photo px -> canvas px: the
box, made to the input's aspect and enlarged by the padding, just fills the input, and its centre is the
canvas' centre. Beyond the photo a canvas holds `FILL_COLOR`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ssl_pose.coco import DataError

FILL_COLOR = (124, 116, 104)  # ImageNet's mean colour: zero once normalised


def canvas_size_for(input_size: tuple[int, int], canvas_scale: float) -> tuple[int, int]:
    """Height and width of the canvas: `canvas_scale` times the input's, with margins of whole pixels."""
    height, width = (side + 2 * round(side * (canvas_scale - 1) / 2) for side in input_size)
    return height, width


def crop_matrices(
    box_xywh: np.ndarray, input_size: tuple[int, int], canvas_size: tuple[int, int], box_padding: float
) -> np.ndarray:
    """(N, 3, 3) float64, photo px -> canvas px, for boxes (N, 4)."""
    height, width = input_size
    zoom = np.minimum(width / box_xywh[:, 2], height / box_xywh[:, 3]) / box_padding
    center = box_xywh[:, :2] + box_xywh[:, 2:] / 2 - 0.5  # boxes count from the corner, points from centres
    canvas_center = (np.array(canvas_size[::-1]) - 1) / 2
    matrices = np.tile(np.eye(3), (len(box_xywh), 1, 1))
    matrices[:, 0, 0] = matrices[:, 1, 1] = zoom
    matrices[:, :2, 2] = canvas_center - zoom[:, None] * center
    return matrices


def read_photo(path: Path, size: tuple[int, int]) -> Image.Image:
    """A photo as RGB, in the frame of its annotations, which state `size` (height, width).

    Its pixels are taken as stored, as COCO annotates them; where only the photo turned by its EXIF orientation
    has that size, as some labelling tools annotate it, it is turned.
    """
    try:
        with Image.open(path) as image:
            if image.size != size[::-1]:
                image = ImageOps.exif_transpose(image)
            photo = to_rgb(image)
    except FileNotFoundError:
        raise DataError(f"missing photo {path}; fetch it, or remove its annotations") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is truncated or no 8-bit photo ({error}); fetch it again") from None
    if photo.size != size[::-1]:
        raise DataError(f"{path} has {photo.width} x {photo.height} px, the annotations say {size[1]} x "
                        f"{size[0]} (width x height), and its EXIF orientation does not explain it; fetch it again")
    return photo


def to_rgb(image: Image.Image) -> Image.Image:
    """A photo of any colours as RGB; `ValueError` for one of more than 8 bits, which `convert` would clip."""
    if image.mode[0] in "IF":
        raise ValueError(f"mode {image.mode}")
    return image.convert("RGB")


def cut_person(
    photo: Image.Image, crop_matrix: np.ndarray, canvas_size: tuple[int, int],
    fill: tuple[int, int, int] = FILL_COLOR,
) -> np.ndarray:
    """Canvas (Hc, Wc, 3) uint8 of one person: bilinear, with an antialiasing filter where it shrinks."""
    zoom, shift = crop_matrix[0, 0], crop_matrix[:2, 2]
    corners = np.array([(0, 0), photo.size])
    # Pillow counts from the corner: its coordinates are ours + 1/2, in the photo and on the canvas.
    touched = zoom * (corners - 0.5) + shift + 0.5
    low = np.clip(np.floor(touched[0]) - 1, 0, canvas_size[::-1]).astype(int)
    high = np.clip(np.ceil(touched[1]) + 1, 0, canvas_size[::-1]).astype(int)
    source = (np.stack([low, high]) - 0.5 - shift) / zoom + 0.5
    reach = math.ceil(1 / min(zoom, 1.0)) + 1  # of the filter, photo px
    window = np.stack([np.floor(source[0]) - reach, np.ceil(source[1]) + reach]).astype(int)
    inside = np.clip(window, 0, photo.size)
    padded = Image.new("RGB", tuple((window[1] - window[0]).tolist()), fill)
    padded.paste(photo.crop(tuple(inside.ravel().tolist())), tuple((inside[0] - window[0]).tolist()))
    part = padded.resize(tuple((high - low).tolist()), Image.Resampling.BILINEAR,
                         box=tuple((source - window[0]).ravel().tolist()))
    canvas = np.empty((*canvas_size, 3), np.uint8)
    canvas[:] = fill
    canvas[low[1]:high[1], low[0]:high[0]] = part
    return canvas
