"""Whatever is read or computed gives a result or one line, never a traceback and never a hang."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ssl_pose.coco import load_persons
from ssl_pose.config import load_config, parse_config
from ssl_pose.crops import load_crops
from ssl_pose.geometry import (
    flip_channels,
    flip_points,
    inside_mask,
    invert_affine,
    to_heatmap_matrix,
    transform_points,
    warp_heatmaps,
    warp_images,
)
from ssl_pose.heatmap import DECODERS, decode_heatmaps, render_heatmaps
from ssl_pose.model import load_networks
from ssl_pose.notebook import NOTEBOOKS, parse_parameters
from ssl_pose.photos import read_photo
from ssl_pose.predictions import read_predictions
from ssl_pose.splits import read_split
from tests.fake_crops import make_crops

ROOT = Path(__file__).resolve().parent.parent
PARAMS = yaml.safe_load((ROOT / "profiles" / "smoke" / "params.yaml").read_text())
CONFIG = parse_config(PARAMS)
LONGEST = 10_000  # ms for one example: what takes longer hangs

settings.register_profile("suite", max_examples=60, deadline=LONGEST, derandomize=True, database=None,
                          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
settings.load_profile("suite")

numbers = st.one_of(st.integers(), st.floats(), st.integers(-2, 300), st.just(2**63), st.just(-(2**70)))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8), st.dates())
keys = st.one_of(st.text(max_size=6), st.integers(), st.sampled_from(["id", "image_id", "steps", "grid", "title"]))
values = st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=4),
                                                       st.dictionaries(keys, inner, max_size=4)), max_leaves=8)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=8)
sizes = st.tuples(st.integers(1, 24), st.integers(1, 24))
entries = st.floats(-1e6, 1e6, width=32)


def result_or_line(function: Callable, *arguments: Any) -> Any:
    """What `function` returns; None where it raises a ValueError whose text is one line that says something."""
    try:
        return function(*arguments)
    except ValueError as error:
        line = str(error)
    assert line.strip()
    assert "\n" not in line
    assert len(line) < 2000
    return None


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all values inside nested mappings and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def put(value: Any, path: tuple, new: Any) -> Any:
    """A copy of `value` with `new` at `path`; without that key where `new` is DELETE."""
    if not path:
        return new
    changed = copy.deepcopy(value)
    section = changed
    for key in path[:-1]:
        section = section[key]
    if new is DELETE:
        del section[path[-1]]
    else:
        section[path[-1]] = new
    return changed


DELETE = object()


@settings(max_examples=200)
@given(st.sampled_from(places(PARAMS)[1:]), st.one_of(values, st.just(DELETE)))
def test_parameters_with_anything_anywhere(path, value):
    config = result_or_line(parse_config, put(PARAMS, path, value))
    assert config is None or set(config.arms) == set(config.grid)


@given(st.one_of(st.text(max_size=60), values.map(yaml.safe_dump)))
def test_parameters_of_any_text(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text, errors="replace")
    assert result_or_line(load_config, tmp_path / "params.yaml") is None


@given(st.binary(max_size=80))
def test_parameters_of_any_bytes(tmp_path, content):
    (tmp_path / "params.yaml").write_bytes(content)
    assert result_or_line(load_config, tmp_path / "params.yaml") is None


@given(st.dictionaries(st.one_of(st.text(max_size=10), st.sampled_from(
    ["training.steps", "arms.full", "arms", "arms.full.num_views", "", ".", "seeds", "views.weak.shift"])),
    values, max_size=3))
def test_overrides_of_any_key_and_value(overrides):
    result_or_line(load_config, ROOT / "profiles" / "smoke" / "params.yaml", overrides)


PARAMETERS = st.sampled_from(["seed", "arm", "overrides", "params_file", "workspace", "Seed", ""])


@given(st.dictionaries(PARAMETERS, st.one_of(st.text(max_size=20), json_values.map(json.dumps)), max_size=3))
def test_papermill_parameters_of_any_text(given):
    found = result_or_line(parse_parameters, NOTEBOOKS / "40_train.ipynb", given)
    if found is not None:
        types = {"seed": int, "arm": str, "overrides": dict, "params_file": str, "workspace": str}
        assert all(type(value) is types[name] for name, value in found.items())


@pytest.fixture(scope="module")
def annotations() -> dict:
    """A small COCO annotation file; its photos need not exist to be refused."""
    flat = [number for joint in range(17) for number in (10 + joint, 8 + joint, 2)]
    persons = [{"id": 10 + i, "image_id": 1 + i % 2, "category_id": 1, "iscrowd": 0, "area": 300.0,
                "bbox": [8, 6, 20, 30], "keypoints": flat, "num_keypoints": 17} for i in range(3)]
    images = [{"id": 1 + i, "file_name": f"{i}.png", "height": 48, "width": 80} for i in range(2)]
    return {"images": images, "annotations": persons, "categories": [{"id": 1, "name": "person"}]}


def written(folder: Path, content: bytes) -> Path:
    for name in ("annotations", "train2017"):
        (folder / name).mkdir(exist_ok=True)
    for name in ("0.png", "1.png"):
        (folder / "train2017" / name).touch()
    (folder / "annotations" / "person_keypoints_train2017.json").write_bytes(content)
    return folder


@settings(max_examples=200)
@given(st.data())
def test_coco_json_with_anything_anywhere(tmp_path, annotations, data):
    path = data.draw(st.sampled_from(places(annotations)))
    value = data.draw(st.one_of(json_values, st.just(DELETE)) if path else json_values)
    content = json.dumps(put(annotations, path, value)).encode()
    persons = result_or_line(load_persons, written(tmp_path, content))
    if persons is not None:
        assert np.isfinite(persons.keypoints).all()
        assert (persons.box_xywh[:, 2:] > 0).all()
        assert all(not Path(name).is_absolute() and ".." not in Path(name).parts for name in persons.file_name)


@given(st.binary(max_size=100))
def test_coco_json_of_any_bytes(tmp_path, content):
    assert result_or_line(load_persons, written(tmp_path, content)) is None


@pytest.mark.parametrize("nesting", ["[" * 50_000, '{"a":' * 50_000, "[" * 50_000 + "]" * 50_000],
                         ids=["lists", "mappings", "closed"])
def test_nesting_without_end_is_refused(tmp_path, nesting):
    assert result_or_line(load_persons, written(tmp_path, nesting.encode())) is None
    for name in ("params.yaml", "manifest.json", "split.json"):
        (tmp_path / name).write_text(nesting)
    assert result_or_line(load_config, tmp_path / "params.yaml") is None
    assert result_or_line(parse_parameters, NOTEBOOKS / "40_train.ipynb", {"seed": nesting}) is None
    assert result_or_line(load_crops, tmp_path) is None
    assert result_or_line(read_split, tmp_path / "split.json", make_crops(4)) is None


def test_references_that_unfold_to_billions_are_refused_with_a_short_line(tmp_path):
    levels = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 12)]
    text = "\n".join(["a0: &a0 [x]", *levels, "profile: *a11"])
    (tmp_path / "params.yaml").write_text(text)
    assert result_or_line(load_config, tmp_path / "params.yaml") is None
    unfolding = yaml.safe_load(text)["profile"]
    assert result_or_line(parse_config, PARAMS | {"profile": unfolding}) is None
    assert result_or_line(parse_config, PARAMS | {"seeds": unfolding}) is None
    assert result_or_line(parse_config, PARAMS | {"training": unfolding}) is None


@given(st.one_of(st.binary(max_size=200), json_values.map(lambda value: json.dumps(value).encode())))
def test_every_reader_of_files_survives_any_bytes(tmp_path, content):
    path = tmp_path / "any"
    path.write_bytes(content)
    for name in ("manifest.json", "crops.npy", "persons.npz"):
        (tmp_path / name).write_bytes(content)
    crops = make_crops(4)
    assert result_or_line(load_networks, path, CONFIG.model) is None
    assert result_or_line(read_predictions, path) is None
    assert result_or_line(read_split, path, crops) is None
    assert result_or_line(load_crops, tmp_path) is None
    assert result_or_line(read_photo, path, (48, 80)) is None


@given(arrays(np.float32, st.tuples(st.integers(1, 3), st.just(2), st.just(3)), elements=entries),
       arrays(np.float32, (3, 5, 2), elements=st.floats(-1e3, 1e3, width=32)))
def test_a_map_and_its_inverse_give_points_back_where_there_is_an_inverse(top, points):
    bottom = np.broadcast_to(np.float32([0, 0, 1]), (len(top), 1, 3))
    matrix = torch.from_numpy(np.concatenate([top, bottom], 1)).double()
    points = torch.from_numpy(points[: len(top)]).double()
    there = transform_points(invert_affine(matrix), transform_points(matrix, points))
    singular = torch.linalg.svdvals(matrix[:, :2, :2])
    sound = singular[:, 1] > 1e-4 * singular[:, 0].clamp(min=1e-3)
    torch.testing.assert_close(there[sound], points[sound], rtol=1e-4, atol=1e-1)


@given(st.data())
def test_warps_give_images_of_the_size_asked_for_whatever_the_matrix(data):
    (hs, ws), size, count = data.draw(sizes), data.draw(sizes), data.draw(st.integers(1, 3))
    numbers_of = st.one_of(entries, st.sampled_from([0.0, np.inf, -np.inf, np.nan]))
    matrix = torch.from_numpy(data.draw(arrays(np.float32, (count, 3, 3), elements=numbers_of)))
    images = torch.rand(count, 17, hs, ws)
    flip = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    assert warp_images(images, matrix, size, 0.5).shape == (count, 17, *size)
    warped = warp_heatmaps(images, matrix, size, flip)
    assert warped.shape == (count, 17, *size)
    assert inside_mask(matrix, (hs, ws), size).shape == (count, 1, *size)
    assert to_heatmap_matrix(matrix, 4).shape == (count, 3, 3)
    assert torch.equal(flip_channels(flip_channels(images, flip), flip), images)
    assert torch.equal(flip_points(flip_points(images[..., 0], flip), flip), images[..., 0])


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 20))
def test_batches_that_do_not_fit_are_refused(images, matrices, channels):
    result = result_or_line(warp_images, torch.zeros(images, 3, 4, 4), torch.eye(3).expand(matrices, 3, 3), (4, 4))
    assert (result is None) == (images != matrices)
    flipped = result_or_line(flip_channels, torch.zeros(2, channels, 4), torch.tensor([True, False]))
    assert (flipped is None) == (channels != 17)


@settings(max_examples=150)
@given(arrays(np.float32, array_shapes(min_dims=4, max_dims=4, max_side=9), elements=st.floats(width=32)),
       st.sampled_from([*DECODERS, "best"]), st.floats(0.1, 3))
def test_decoding_any_heatmap_gives_points_near_a_cell_or_a_line(heatmaps, decoder, sigma):
    decoded = result_or_line(decode_heatmaps, torch.from_numpy(heatmaps), decoder, sigma)
    if decoded is None:
        assert decoder == "best" or min(heatmaps.shape[2:]) < 2 * np.ceil(sigma) + 1
        return
    points, confidence = decoded
    assert points.shape == (*heatmaps.shape[:2], 2)
    assert confidence.shape == heatmaps.shape[:2]
    height, width = heatmaps.shape[2:]
    assert torch.isfinite(points).all()
    assert ((points >= -1) & (points <= torch.tensor([width, height]))).all()


@given(st.integers(9, 40), st.integers(9, 40), st.floats(0, 1), st.floats(0, 1), st.floats(0.7, 2.5))
def test_a_gaussian_anywhere_inside_is_decoded_to_where_it_is(height, width, x, y, sigma):
    point = torch.tensor([[[x * (width - 1), y * (height - 1)]]])
    decoded, confidence = decode_heatmaps(render_heatmaps(point, (height, width), sigma), "dark", sigma)
    torch.testing.assert_close(decoded, point, rtol=0, atol=0.01)
    assert 0.5 < confidence.item() <= 1
