"""The guide docs/own_data.md, as written; and its parts: a COCO directory of one's own, poses, a model card."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_pose.coco import DataError, load_persons
from ssl_pose.config import load_config
from ssl_pose.exporting import export_run, open_model, open_run
from ssl_pose.inference import predict_photo
from ssl_pose.model import CheckpointError, build_model, save_networks
from ssl_pose.own_data import DETECTIONS, build_directory
from ssl_pose.own_photos import draw_photos, list_photos, open_upright
from ssl_pose.persons import load_detections
from ssl_pose.photos import read_photo
from ssl_pose.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def own(rendered_coco: Path, tmp_path: Path) -> Path:
    """A folder as a user has it: photos/, labels.json for the training photos, boxes.json for one of the others."""
    (tmp_path / "photos").mkdir()
    for split in ("train2017", "unlabeled2017"):
        for number, path in enumerate(sorted((rendered_coco / split).iterdir())):
            shutil.copy(path, tmp_path / "photos" / f"{split[:5]}_{number}.jpg")
    labels = json.loads((rendered_coco / "annotations/person_keypoints_train2017.json").read_text())
    for number, image in enumerate(sorted(labels["images"], key=lambda image: image["file_name"])):
        image["file_name"] = f"train_{number}.jpg"
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "boxes.json").write_text(json.dumps({"unlab_1.jpg": [[10, 20, 100, 200], [300, 40, 90, 180]]}))
    return tmp_path


def test_labelled_photos_are_shared_out_and_the_others_become_the_pool(own: Path):
    counts = build_directory(own / "photos", own / "labels.json", own / "coco", own / "boxes.json", 0.25)
    assert counts == {"train2017": 6, "val2017": 2, "unlabeled2017": 3}
    train, val = load_persons(own / "coco"), load_persons(own / "coco", "val2017")
    assert not set(train.image_id) & set(val.image_id)
    detected = load_detections(own / "coco", "unlabeled2017", own / "coco" / DETECTIONS, 0.0)
    assert detected.file_name == ("unlabeled2017/unlab_0.jpg", *["unlabeled2017/unlab_1.jpg"] * 2,
                                  "unlabeled2017/unlab_2.jpg")
    assert detected.box_xywh[:3].tolist() == [[0, 0, 640, 480], [10, 20, 100, 200], [300, 40, 90, 180]]
    again = build_directory(own / "photos", own / "labels.json", own / "coco", None, 0.25)
    assert again == counts
    assert load_persons(own / "coco", "val2017").annotation_id.tolist() == val.annotation_id.tolist()


def test_what_cannot_be_shared_out_is_named_in_one_line(own: Path):
    with pytest.raises(DataError, match="8 photos are labelled, of which 0 would be held back"):
        build_directory(own / "photos", own / "labels.json", own / "coco", None, 0.01)
    with pytest.raises(DataError, match=r"must lie between 0 and 1, got 1\.5"):
        build_directory(own / "photos", own / "labels.json", own / "coco", None, 1.5)
    (own / "other.json").write_text('{"other.jpg": [[0, 0, 9, 9]]}')
    with pytest.raises(DataError, match=r"other\.json: 'other\.jpg' is none of the photos; name each as its file is"):
        build_directory(own / "photos", own / "labels.json", own / "coco", own / "other.json")
    (own / "photos" / "train_0.jpg").unlink()
    with pytest.raises(DataError, match=r"labelled photo 'train_0.jpg' is not in"):
        build_directory(own / "photos", own / "labels.json", own / "coco")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("given", ["photos", "labels.json", "boxes.json"])
def test_a_result_that_would_take_the_place_of_what_was_given_is_refused(own: Path, given: str):
    """The folder looks like a COCO directory, by its annotations/."""
    (own / "mine" / "annotations").mkdir(parents=True)
    (own / given).rename(own / "mine" / given)
    before = contents(own / "mine")
    places = [own / "mine" / name if name == given else own / name for name in ("photos", "labels.json", "boxes.json")]
    with pytest.raises(DataError, match=rf"{given} lies in .*mine, which would be made anew; name another folder"):
        build_directory(*places[:2], own / "mine", places[2])
    assert contents(own / "mine") == before


def test_only_a_folder_that_is_as_own_data_left_it_is_replaced(own: Path, rendered_coco: Path):
    foreign = own / "foreign"
    shutil.copytree(rendered_coco, foreign)
    refused = "holds something else than what own-data made; name another folder, or remove it"
    with pytest.raises(DataError, match=refused):
        build_directory(own / "photos", own / "labels.json", foreign)
    assert contents(foreign) == contents(rendered_coco)
    made = own / "coco"
    for name, content in (("train2017/mine.jpg", "a photo"), ("annotations/mine.json", "[]"), (DETECTIONS, "[]")):
        build_directory(own / "photos", own / "labels.json", made)
        (made / name).write_text(content)
        with pytest.raises(DataError, match=refused):
            build_directory(own / "photos", own / "labels.json", made)
        assert (made / name).read_text() == content
        shutil.rmtree(made)
    assert len(contents(own / "photos")) == 11


@pytest.mark.parametrize(("orientation", "size", "refused"), [
    (1, (64, 48), False), (3, (64, 48), True), (2, (64, 48), True), (6, (64, 48), False), (6, (64, 64), True),
])
@pytest.mark.parametrize("name", ["train_0.jpg", "unlab_0.jpg"])
def test_a_photo_that_training_would_not_read_as_it_is_looked_at_is_refused(
    own: Path, name: str, orientation: int, size: tuple[int, int], refused: bool
):
    """A turn that changes the size is known by it: 6 lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = own / "photos" / name
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)).save(path, exif=exif)
    if refused:
        with pytest.raises(DataError, match=rf"EXIF orientation .* \(1, the first .*{name}\), .*; save them upright"):
            build_directory(own / "photos", own / "labels.json", own / "coco")
        return
    build_directory(own / "photos", own / "labels.json", own / "coco")
    upright = open_upright(path)
    np.testing.assert_array_equal(np.asarray(read_photo(path, upright.size[::-1])), np.asarray(upright))


def test_a_photo_of_16_bits_is_refused_as_training_refuses_it(own: Path):
    Image.fromarray(np.full((20, 30), 40000, np.uint16)).save(own / "photos" / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png is no 8-bit photo that can be read \(mode I;16\); replace"):
        build_directory(own / "photos", own / "labels.json", own / "coco")
    assert not (own / "coco").exists()


@pytest.fixture
def run(tmp_path: Path) -> Workspace:
    """A trained run of the default profile's network, with random weights that predict something."""
    config = load_config(ROOT / "params.yaml", {"training.device": "cpu"})
    here = Workspace(config, tmp_path, tmp_path, {})
    networks = [build_model(config.model, seed=seed) for seed in (0, 1)]
    for network in networks:
        network.head.weight.data.normal_(std=0.5)
    save_networks(here.model("full", 0), networks, config.model)
    (here.run("full", 0)).mkdir(parents=True)
    for name in ("train.json", "scores.json"):
        shutil.copy(ROOT / "results/default/runs/full/seed-0" / name, here.run("full", 0) / name)
    return here


def test_an_exported_run_reads_back_and_predicts_the_same(run: Workspace, own: Path):
    folder = export_run(run, "full", 0, own / "my_model")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.json", "model.safetensors"]
    photo, box = open_upright(own / "photos" / "train_0.jpg"), np.array([[100.0, 50, 200, 300]])
    before = predict_photo(open_run(run, "full", 0), photo, box)
    after = predict_photo(open_model(folder, device="cpu"), photo, box)
    np.testing.assert_array_equal(before.keypoints, after.keypoints)
    about = json.loads((folder / "model.json").read_text())
    assert about.keys() == {"format", "profile", "arm", "seed", "model", "input_size", "box_padding", "keypoints"}
    card = (folder / "README.md").read_text()
    scores = json.loads((run.run("full", 0) / "scores.json").read_text())
    assert f"AP: {scores['AP']:.1f}" in card
    assert "Algorithm 1" in card
    assert "profile default, arm full, seed 0" in card
    assert "2 networks" in card
    export_run(run, "full", 0, folder)  # again over itself
    with pytest.raises(ValueError, match="holds something else than a model"):
        export_run(run, "full", 0, own / "photos")
    (folder / "mine.txt").touch()
    (own / "project").mkdir()
    (own / "project" / "README.md").touch()
    for place in (folder, own / "project"):
        before = sorted(place.iterdir())
        with pytest.raises(ValueError, match="holds something else than a model"):
            export_run(run, "full", 0, place)
        assert sorted(place.iterdir()) == before


def test_what_is_no_exported_model_is_refused(run: Workspace, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="is no exported model"):
        open_model(tmp_path / "empty", device="cpu")
    folder = export_run(run, "full", 0, tmp_path / "model")
    (folder / "model.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is truncated or of another format"):
        open_model(folder, device="cpu")
    with pytest.raises(ValueError, match=r"no weights .*; train the run first"):
        export_run(run, "full", 3, tmp_path / "other")


def test_poses_are_drawn_on_photos_with_and_without_boxes(run: Workspace, own: Path):
    model = open_run(run, "full", 0)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (64, 32), "grey").save(own / "photos" / "zz_turned.jpg", exif=turned)
    pictures = draw_photos(model, [own / "photos"], own / "poses", own / "boxes.json")
    assert len(pictures) == 12
    found = json.loads((own / "poses" / "poses.json").read_text())
    assert [len(found[name]) for name in ("unlab_0.jpg", "unlab_1.jpg")] == [1, 2]
    assert np.array(found["unlab_1.jpg"][0]["keypoints"]).shape == (17, 2)
    with Image.open(own / "poses" / "zz_turned.jpg.poses.png") as picture:
        assert picture.size == (32, 64)  # as it is looked at
    (own / "boxes.json").write_text('{"other.jpg": [[0, 0, 9, 9]]}')
    with pytest.raises(DataError, match=r"'other\.jpg' is none of the photos"):
        draw_photos(model, [own / "photos"], own / "poses", own / "boxes.json")
    (own / "boxes.json").write_text('{"train_0.jpg": [[0, 0, 9]]}')
    with pytest.raises(DataError, match=r"train_0\.jpg: .* are no boxes; expected a JSON object such as"):
        draw_photos(model, [own / "photos"], own / "poses", own / "boxes.json")
    (own / "photos" / "a.jpg").write_text("no photo")
    with pytest.raises(DataError, match=r"a\.jpg is no 8-bit photo that can be read"):
        draw_photos(model, [own / "photos"], own / "poses")


def test_a_photo_with_an_empty_list_of_boxes_is_nobodys(run: Workspace, own: Path):
    (own / "boxes.json").write_text('{"unlab_0.jpg": []}')
    draw_photos(open_run(run, "full", 0), [own / "photos" / "unlab_0.jpg"], own / "poses", own / "boxes.json")
    assert json.loads((own / "poses" / "poses.json").read_text()) == {"unlab_0.jpg": []}
    np.testing.assert_array_equal(np.asarray(Image.open(own / "poses" / "unlab_0.jpg.poses.png")),
                                  np.asarray(open_upright(own / "photos" / "unlab_0.jpg")))
    build_directory(own / "photos", own / "labels.json", own / "coco", own / "boxes.json")
    detected = load_detections(own / "coco", "unlabeled2017", own / "coco" / DETECTIONS, 0.0)
    assert detected.file_name == ("unlabeled2017/unlab_1.jpg", "unlabeled2017/unlab_2.jpg")


def test_a_picture_that_the_disk_has_no_room_for_leaves_the_one_before(run: Workspace, tmp_path: Path, monkeypatch):
    Image.new("RGB", (48, 32), "grey").save(tmp_path / "a.jpg")
    (picture,) = draw_photos(open_run(run, "full", 0), [tmp_path / "a.jpg"], tmp_path / "poses")
    before, save = picture.read_bytes(), Image.Image.save

    def save_half(image: Image.Image, path: Path, **how: str) -> None:
        save(image, path, **how)
        path.write_bytes(path.read_bytes()[:40])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Image.Image, "save", save_half)
    with pytest.raises(OSError, match="No space left"):
        draw_photos(open_run(run, "full", 0), [tmp_path / "a.jpg"], tmp_path / "poses")
    assert picture.read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "poses").iterdir()) == ["a.jpg.poses.png", "poses.json"]


def test_photos_that_differ_in_their_ending_alone_have_pictures_of_their_own(run: Workspace, tmp_path: Path):
    for name, size in (("a.jpg", (48, 32)), ("a.png", (32, 48))):
        Image.new("RGB", size, "grey").save(tmp_path / name)
    pictures = draw_photos(open_run(run, "full", 0), [tmp_path / "a.jpg", tmp_path / "a.png"], tmp_path / "poses")
    assert [path.name for path in pictures] == ["a.jpg.poses.png", "a.png.poses.png"]
    assert [Image.open(path).size for path in pictures] == [(48, 32), (32, 48)]


def test_two_photos_of_one_name_are_found_without_looking_at_each_pair():
    places = [Path("first", f"{number}.jpg") for number in range(20_000)]
    began = time.process_time()
    with pytest.raises(DataError, match=r"two photos are called 19999\.jpg; rename one"):
        list_photos([*places, Path("second", "19999.jpg")])
    assert time.process_time() - began < 2  # s: 0.1; 6 where each name is counted anew


@pytest.mark.soak
def test_the_guide_works_as_it_is_written(own: Path, tmp_path: Path):
    """Every command of docs/own_data.md, in a copy of this repository, beside the user's photos."""
    clone = tmp_path / "clone"
    names = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True,
                           text=True).stdout.split("\0")
    for name in filter(None, names):
        if os.path.lexists(ROOT / name):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name, follow_symlinks=False)
    subprocess.run(["git", "init", "--quiet"], cwd=clone, check=True)
    (clone / ".venv").symlink_to(ROOT / ".venv")
    for name in ("requirements.lock", "pyproject.toml"):  # or make would set the environment up anew
        os.utime(clone / name, (0, 0))
    for name in ("photos", "labels.json", "boxes.json"):
        (own / name).rename(clone / name)
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "own_data.md").read_text(), re.DOTALL):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=clone, capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": str(clone)})
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert (clone / "profiles/mine/results/mine/report.html").stat().st_size > 10_000
    assert "dual_student_refine" in (clone / "my_model/README.md").read_text()
    assert len(list((clone / "poses").glob("*.png"))) == 11
