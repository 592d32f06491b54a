"""Photos: pixels and `crop_matrix` agree to a tenth of a pixel, and every kind of photo is read as it is annotated."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_pose.coco import DataError
from ssl_pose.photos import FILL_COLOR, canvas_size_for, crop_matrices, cut_person, read_photo
from tests.packed import INPUT_SIZE

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "coco17_sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real photos is not on this machine")


def to_canvas(matrix, point):
    return (matrix @ [*point, 1.0])[:2]


def gaussian_photo(center, sigma, photo_size=(300, 400)):
    """A bright blob on black, at photo px `center`."""
    y, x = np.mgrid[: photo_size[0], : photo_size[1]]
    bump = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * sigma**2))
    return Image.fromarray(np.round(255 * bump).astype(np.uint8)).convert("RGB")


def centroid(canvas, expected, radius):
    """Centre of brightness (x, y) of the px of `canvas` within `radius` of the expected point."""
    y, x = np.mgrid[: canvas.shape[0], : canvas.shape[1]]
    weight = canvas[..., 0] * (np.hypot(x - expected[0], y - expected[1]) < radius)
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("box", [
    [120.0, 60.0, 90.0, 170.0],  # shrunk
    [40.3, 20.7, 310.2, 250.9],  # shrunk much, the canvas wider than the photo
    [150.25, 130.5, 21.0, 18.0],  # enlarged
    [0.0, 100.0, 120.5, 199.5],  # at a corner of the photo, so the canvas reaches beyond it
])
@pytest.mark.parametrize("where", [(0.5, 0.5), (0.3, 0.62), (0.71, 0.4)])
def test_a_blob_lands_where_the_crop_matrix_says(box, where):
    size = canvas_size_for(INPUT_SIZE, 1.5)
    matrix = crop_matrices(np.array([box]), INPUT_SIZE, size, 1.25)[0]
    point = np.array(box[:2]) + where * np.array(box[2:])
    canvas = cut_person(gaussian_photo(point, 2.5 / min(matrix[0, 0], 1)), matrix, size)
    expected = to_canvas(matrix, point)
    radius = 6 * max(matrix[0, 0], 1) + 2
    assert np.abs(centroid(canvas, expected, radius) - expected).max() < 0.1


def test_a_crop_at_scale_one_holds_the_photos_own_pixels():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8))
    matrix = np.array([[1.0, 0, -7], [0, 1, 5], [0, 0, 1]])
    canvas = cut_person(photo, matrix, (40, 30))
    np.testing.assert_array_equal(canvas[5:], np.asarray(photo)[:35, 7:37])
    assert (canvas[:5] == FILL_COLOR).all()


def test_shrinking_averages_instead_of_skipping_pixels():
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (200, 100))).convert("RGB")
    matrix = np.diag([0.13, 0.13, 1.0])
    canvas = cut_person(stripes, matrix, (24, 24)).astype(float)
    assert np.abs(canvas[3:-3, 3:-3] - 127.5).max() < 12


def test_beyond_the_photo_lies_the_fill_colour():
    black = Image.new("RGB", (60, 40))
    matrix = np.array([[0.5, 0, 30], [0, 0.5, 10], [0, 0, 1]])
    canvas = cut_person(black, matrix, (48, 72))
    assert (canvas[:8] == FILL_COLOR).all()
    assert (canvas[:, :28] == FILL_COLOR).all()
    assert (canvas[31:] == FILL_COLOR).all()
    assert (canvas[11:29, 31:59] == 0).all()


def test_the_padded_box_fills_the_input_and_shares_the_canvas_centre():
    boxes = np.array([[10.0, 20.0, 30.0, 80.0], [10.0, 20.0, 90.0, 40.0]])
    size = canvas_size_for(INPUT_SIZE, 1.5)
    assert size == (96, 72)
    tall, wide = crop_matrices(boxes, INPUT_SIZE, size, 1.25)
    assert tall[0, 0] == tall[1, 1] == pytest.approx(64 / (80 * 1.25))
    assert wide[0, 0] == wide[1, 1] == pytest.approx(48 / (90 * 1.25))
    np.testing.assert_allclose(to_canvas(tall, (24.5, 59.5)), (35.5, 47.5))
    np.testing.assert_allclose(to_canvas(wide, (54.5, 39.5)), (35.5, 47.5))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "LA", "1"])
def test_photos_of_every_colour_mode_become_rgb(tmp_path, mode):
    path = tmp_path / f"photo.{'tif' if mode == 'CMYK' else 'png'}"
    Image.new("RGB", (30, 20), (255, 255, 255)).convert(mode).save(path)
    photo = read_photo(path, (20, 30))
    assert photo.mode == "RGB"
    assert photo.getpixel((3, 3)) == (255, 255, 255)


def test_an_exif_orientation_is_not_applied_where_the_stored_size_is_annotated(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to view"
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_photo(tmp_path / "turned.png", (20, 30))), pixels)


def test_an_exif_orientation_is_applied_where_only_the_turned_photo_has_the_annotated_size(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: to be turned clockwise by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    turned = np.asarray(read_photo(tmp_path / "turned.png", (30, 20)))
    np.testing.assert_array_equal(turned, np.rot90(pixels, k=-1))


def test_a_jpeg_of_four_inks_keeps_its_colours(tmp_path):
    """Adobe stores the inks of a JPEG inverted."""
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)]
    stripes = np.repeat(np.array(colors, np.uint8)[None], 32, axis=0).repeat(16, axis=1)
    Image.fromarray(stripes).convert("CMYK").save(tmp_path / "inks.jpg", quality=95)
    assert Image.open(tmp_path / "inks.jpg").mode == "CMYK"
    photo = np.asarray(read_photo(tmp_path / "inks.jpg", (32, 80))).astype(int)
    for column, color in enumerate(colors):
        assert np.abs(photo[16, 16 * column + 8] - color).max() < 12


def test_a_photo_of_16_bits_is_refused_rather_than_clipped(tmp_path):
    Image.fromarray(np.full((20, 30), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png is truncated or no 8-bit photo \(mode I;16\)"):
        read_photo(tmp_path / "deep.png", (20, 30))


def test_a_photo_that_vanishes_is_named(tmp_path):
    with pytest.raises(DataError, match=r"missing photo .*gone\.png"):
        read_photo(tmp_path / "gone.png", (20, 30))


@needs_sample
def test_a_real_greyscale_photo_packs_as_grey(tmp_path):
    grey = [path for path in sorted((SAMPLE / "train2017").glob("*.jpg")) if Image.open(path).mode == "L"]
    grey += [path for path in sorted((SAMPLE / "val2017").glob("*.jpg")) if Image.open(path).mode == "L"]
    assert len(grey) == 2
    for path in grey:
        pixels = np.asarray(read_photo(path, Image.open(path).size[::-1]))
        assert (pixels == pixels[..., :1]).all()
