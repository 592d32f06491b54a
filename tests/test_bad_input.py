"""Bad input of every kind that users have: each ends in one line that names the cause, and leaves nothing behind.

A row of the corpus is a name, what is wrong, and what the line must say. Inputs are read where users' inputs are.
"""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from nbformat.v4 import new_code_cell, new_notebook, writes
from PIL import Image
from pyarrow import parquet

from ssl_pose import notebook as runner
from ssl_pose.__main__ import describe_error, main
from ssl_pose.config import ModelConfig, load_config
from ssl_pose.crops import load_crops
from ssl_pose.model import build_model, load_networks, save_networks
from ssl_pose.notebook import run_notebook
from ssl_pose.persons import load_detections
from ssl_pose.predictions import read_predictions
from ssl_pose.results import load_examples, load_logs, read_json
from ssl_pose.splits import read_split
from tests.conftest import person
from tests.fake_crops import make_crops
from tests.packed import pack

ROOT = Path(__file__).resolve().parent.parent
PARAMS = (ROOT / "profiles" / "smoke" / "params.yaml").read_text()
UNET = ModelConfig("unet", 4, 2, 1.5, "centre", "none")
Act = Callable[[Path], Any]  # uses the bad input in a folder of its own


def params(old: str, new: str) -> Act:
    """Smoke's parameters with a text replaced."""
    assert old in PARAMS

    def act(folder: Path) -> None:
        (folder / "params.yaml").write_bytes(PARAMS.replace(old, new, 1).encode("latin-1"))
        load_config(folder / "params.yaml")

    return act


def override(key: str, value: Any) -> Act:
    return lambda folder: load_config(ROOT / "profiles" / "smoke" / "params.yaml", {key: value})


def coco(change: Callable[[dict], Any], photo: bytes | None = None) -> Act:
    """Packing a directory of one photo of 48 x 80 px with two persons, after a change of its JSON or photo."""

    def act(folder: Path) -> None:
        data = {"images": [{"id": 1, "file_name": "1.png", "height": 48, "width": 80}],
                "annotations": [person(10, 1), person(11, 1)], "categories": [{"id": 1, "name": "person"}]}
        changed = change(data)
        data = data if changed is None else changed
        (folder / "annotations").mkdir()
        (folder / "train2017").mkdir()
        (folder / "train2017" / "1.png").write_bytes(image() if photo is None else photo)
        content = data if isinstance(data, bytes) else json.dumps(data).encode()
        (folder / "annotations" / "person_keypoints_train2017.json").write_bytes(content)
        pack(folder, folder / "crops")

    return act


def detections(content: bytes | None, photos: str = "train2017") -> Act:
    """Reading a detector's boxes for the photos of that directory."""

    def act(folder: Path) -> None:
        coco(lambda data: None)(folder)
        if content is not None:
            (folder / "boxes.json").write_bytes(content)
        load_detections(folder, photos, folder / "boxes.json", 0.5)

    return act


def detection(**fields: Any) -> Act:
    good = {"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 30], "score": 0.9}
    return detections(json.dumps([good | fields]).encode())


def annotation(**fields: Any) -> Act:
    return coco(lambda data: data["annotations"][0].update(fields))


def listed(**fields: Any) -> Act:
    return coco(lambda data: data["images"][0].update(fields))


def photo(content: bytes) -> Act:
    return coco(lambda data: None, content)


def image(mode: str = "RGB", size: tuple[int, int] = (80, 48), form: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form)
    return buffer.getvalue()


def huge_png() -> bytes:
    """The header of a PNG that claims 100,000 x 100,000 px: a decompression bomb."""
    content = bytearray(image())
    content[16:24] = struct.pack(">II", 100_000, 100_000)
    return bytes(content)


def weights(write: Callable[[Path], Any]) -> Act:
    def act(folder: Path) -> None:
        write(folder / "model.safetensors")
        load_networks(folder / "model.safetensors", UNET)

    return act


def other_model(**fields: Any) -> Act:
    other = ModelConfig(**{**UNET.__dict__, **fields})
    return weights(lambda path: save_networks(path, [build_model(other)], other))


def notebook(source: str | bytes | None, given: dict[str, str] | None = None, tags: tuple = ("parameters",)) -> Act:
    """Running a notebook whose first cell, or whose whole file if in bytes, is `source`."""

    def act(folder: Path) -> None:
        if isinstance(source, bytes):
            (folder / "10_some.ipynb").write_bytes(source)
        elif source is not None:
            cells = [new_code_cell(source, metadata={"tags": list(tags)})]
            kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
            (folder / "10_some.ipynb").write_text(writes(new_notebook(cells=cells, metadata=kernel)))
        run_notebook("10_some", given or {}, folder / "out.ipynb")

    return act


def parameter(name: str, text: str) -> Act:
    """A value for a parameter of the training notebook itself."""
    return lambda folder: runner.parse_parameters(ROOT / "notebooks" / "40_train.ipynb", {name: text})


def file(read: Callable[[Path], Any], content: bytes | None, name: str = "file") -> Act:
    def act(folder: Path) -> None:
        if content is not None:
            (folder / name).write_bytes(content)
        read(folder / name)

    return act


def split(**fields: Any) -> Act:
    good = {"annotations_sha256": "a" * 64, "image_ids": [100], "annotation_ids": [1000, 1001]}
    return file(lambda path: read_split(path, make_crops(4)), json.dumps(good | fields).encode())


def crops(damage: Callable[[Path], Any]) -> Act:
    def act(folder: Path) -> None:
        coco(lambda data: None)(folder)
        damage(folder / "crops")
        load_crops(folder / "crops", verify=True)

    return act


def command(*arguments: str) -> Act:
    return lambda folder: main(list(arguments))


def logs(content: bytes) -> Act:
    def act(folder: Path) -> None:
        config = load_config(ROOT / "profiles" / "smoke" / "params.yaml")
        for arm in config.arms:
            (folder / "runs" / arm / "seed-0").mkdir(parents=True)
            (folder / "runs" / arm / "seed-0" / "log.jsonl").write_bytes(content)
        load_logs(folder, config)

    return act


class Trap:
    """An object whose unpickling leaves the file `sprung`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return Path.touch, (self.folder / "sprung",)


def examples(folder: Path) -> None:
    run = folder / "runs" / "full" / "seed-0"
    run.mkdir(parents=True)
    np.savez(run / "examples.npz", crops=np.array([Trap(folder)], dtype=object))
    load_examples(folder, "full", 0)


def table(**columns: Any) -> bytes:
    buffer = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), buffer)
    return buffer.getvalue().to_pybytes()


NUMBERS = "annotation 10: keypoints must be 51 numbers, got"
NO_PHOTO = "is truncated or no 8-bit photo"
CORPUS: dict[str, tuple[Act, str]] = {
    # params.yaml
    "params: a tab": (params("  steps: 20", "\tsteps: 20"), "params.yaml is no valid YAML: while scanning"),
    "params: latin-1": (params("Its accuracies", "F\xfcr nichts"), "params.yaml is no valid YAML: 'utf-8'"),
    "params: an open bracket": (params("seeds: [0]", "seeds: [0"), "params.yaml is no valid YAML"),
    "params: a date that is none": (params("profile: smoke", "profile: 2026-13-01"), "month must be in 1..12"),
    "params: python object": (params("profile: smoke", "profile: !!python/object/apply:os.getcwd []"), "no valid YAML"),
    "params: empty": (lambda folder: (folder / "params.yaml").touch() or load_config(folder / "params.yaml"),
                      "holds no sections"),
    "params: a folder": (lambda folder: load_config(folder), "no parameters file"),
    "params: missing": (lambda folder: load_config(folder / "nowhere.yaml"), "no parameters file"),
    "params: misspelt key": (params("  steps: 20", "  step: 20"), "unknown key training.step; allowed: burn_in_steps"),
    "params: misspelt section": (params("training:", "trainning:"), "unknown key trainning; allowed: profile, seeds"),
    "params: key with a line break": (params("profile: smoke", 'profile: smoke\n"a\\nb": 1'), r"unknown key 'a\nb'"),
    "params: missing key": (params("  compile: false", "  # compile"), "missing key training.compile (true or false)"),
    "params: 1e-4": (params("learning_rate: 2.0e-3", "learning_rate: 2e-3"), "YAML 1.1 reads 1e-4 as text"),
    "params: text for a number": (params("  width: 8", "  width: eight"), "width must be an integer, got 'eight'"),
    "params: nothing for a number": (params("  width: 8", "  width:"), "model.width must be an integer, got None"),
    "params: infinite": (params("consistency_weight: 1.0", "consistency_weight: .inf"), "must be finite, got inf"),
    "params: not a number": (params("final_learning_rate: 0.01", "final_learning_rate: .nan"), "got nan"),
    "params: negative": (params("  num_val_photos: 12", "  num_val_photos: -1"), "must be at least 1, got -1"),
    "params: above 1": (params("confidence_threshold: 0.3", "confidence_threshold: 3"), "must be in [0.0, 1.0], got 3"),
    "params: unknown choice": (params("  decoder: dark", "  decoder: udp"), "must be one of argmax, quarter, dark"),
    "params: three sides": (params("[64, 48]", "[64, 48, 3]"), "data.input_size must be a list of 2"),
    "params: odd size": (params("[64, 48]", "[65, 48]"), "data.input_size must be multiples of 16, got 65x48"),
    "params: photo without room": (params("[96, 128]", "[6, 8]"), "photo_size must be at least 64, got 6"),
    "params: box scales swapped": (params("[0.7, 1.4]", "[1.4, 0.7]"), "views.strong.box_scale must be [low, high]"),
    "params: a path as profile": (params("profile: smoke", "profile: ../other"), "'../other' must be of letters"),
    # the grid and its arms
    "grid: unknown arm": (params("  - full", "  - best"), "grid: 'best' must be named once and stand under arms"),
    "grid: twice": (params("  - full", "  - supervised"), "grid: 'supervised' must be named once"),
    "grid: empty": (override("grid", []), "grid must be a list of a text, got []"),
    "grid: a mapping": (override("grid", {"full": 1}), "grid must be a list of a text, got {'full': 1}"),
    "seeds: twice": (params("seeds: [0]", "seeds: [0, 0]"), "seeds must name each seed once, got [0, 0]"),
    "seeds: a number": (params("seeds: [0]", "seeds: 0"), "seeds must be a list of an integer, got 0"),
    "arm: a text": (params("    title: Dual-Student\n", "    Dual-Student\n"), "arms.dual_student must be a mapping"),
    "arm: a path": (params("arms:\n", "arms:\n  ../x: {}\n"), "arms: '../x' must be of letters, digits and _"),
    "arm: unknown option": (override("arms.full.tau", 0.3), "unknown key arms.full.tau; allowed: framework"),
    "arm: views without ensemble": (override("arms.dual_student.num_views", 2), "ensemble 'none' takes num_views 0"),
    "arm: selection of one view": (override("arms.dual_student.selection", "cross"), "selection needs framework"),
    "override: unknown": (override("training.lr", 1), "override of unknown key 'training.lr'"),
    # COCO JSON
    "coco: empty": (coco(lambda data: b""), "is no complete JSON"),
    "coco: cut short": (coco(lambda data: json.dumps(data).encode()[:200]), "is no complete JSON"),
    "coco: gzip": (coco(lambda data: b"\x1f\x8b\x08\x00"), "is no complete JSON"),
    "coco: a list": (coco(lambda data: b"[]"), "it has no list 'images'"),
    "coco: results": (coco(lambda data: b'[{"image_id": 1, "score": 0.5}]'), "it has no list 'images'"),
    "coco: null annotations": (coco(lambda data: data.update(annotations=None)), "it has no list 'annotations'"),
    "coco: instances file": (coco(lambda data: [entry.pop("keypoints") for entry in data["annotations"]] and data),
                             f"{NUMBERS} None"),
    "coco: another category": (coco(lambda data: data["categories"][0].update(id=18)), "has none with id 1"),
    "coco: no persons": (coco(lambda data: data.update(annotations=[])), "no person with keypoints is left"),
    "coco: only crowds": (coco(lambda data: [entry.update(iscrowd=1) for entry in data["annotations"]] and data),
                          "no person with keypoints is left"),
    "coco: same id": (annotation(id=11), "annotation id 11 occurs more than once"),
    "coco: same image": (coco(lambda data: data["images"].append(data["images"][0])), "image id 1 occurs more than"),
    "coco: text id": (annotation(id="10"), "id of entry 0 must be an integer, got '10'"),
    "coco: huge id": (annotation(id=2**64), "id of entry 0 must be an integer"),
    "coco: unknown image": (annotation(image_id=9), "annotation 10: image_id 9 is not among the images"),
    "coco: 16 keypoints": (annotation(keypoints=[1] * 48), f"{NUMBERS} 48 values"),
    "coco: text keypoint": (annotation(keypoints=["x"] * 51), NUMBERS),
    "coco: nested keypoints": (annotation(keypoints=[[1, 2, 2]] * 17), f"{NUMBERS} 17 values"),
    "coco: NaN keypoint": (annotation(keypoints=[float("nan"), 1, 2] * 17), "holds a number that is not finite"),
    "coco: visibility 3": (annotation(keypoints=[5, 5, 3] * 17), "visibility of keypoint 0 is 3, not 0, 1 or 2"),
    "coco: no area": (annotation(area=None), "area must be a finite number, got None"),
    "coco: long text": (annotation(area="x" * 10**6), "area must be a finite number, got 'xxx"),
    "coco: deep": (coco(lambda data: b'{"images": ' + b"[" * 10**5), "is no complete JSON"),
    # boxes
    "box: three numbers": (annotation(bbox=[1, 2, 3]), "bbox must be 4 numbers, got 3 values"),
    "box: without width": (annotation(bbox=[5, 5, 0, 9]), "bbox [5.0, 5.0, 0.0, 9.0] has no area"),
    "box: negative": (annotation(bbox=[5, 5, -4, 9]), "has no area"),
    "box: outside": (annotation(bbox=[100, 5, 9, 9]), "lies outside its photo of 80 x 48 px"),
    "box: infinite": (annotation(bbox=[0, 0, float("inf"), 9]), "bbox holds a number that is not finite"),
    "box: truth": (annotation(bbox=[True, 0, 9, 9]), "bbox must be 4 numbers"),
    # detected boxes
    "detections: missing": (detections(None), "no detections file"),
    "detections: empty": (detections(b""), "is no complete JSON"),
    "detections: an empty list": (detections(b"[]"), "holds no detections; expected a JSON list"),
    "detections: a mapping": (detections(b'{"annotations": []}'), "holds no detections; expected a JSON list"),
    "detections: other photos": (detection(image_id=7), "image_id 7 is no photo of train2017"),
    "detections: unknown split": (detections(b'[{"image_id": 1, "category_id": 1, "score": 1}]', "test2017"),
                                  "no list of the photos of test2017"),
    "detections: no score": (detection(score=None), "entry 0 has no image_id or score"),
    "detections: NaN score": (detection(score=float("nan")), "entry 0 has no image_id or score"),
    "detections: low scores": (detection(score=0.1), "no box scores at least 0.5; lower data.detection_score"),
    "detections: cars": (detection(category_id=3), "no entry has category_id 1"),
    "detections: corners": (detection(bbox=[5, 5, 3, -2]), "has no area"),
    "detections: keypoints": (detection(bbox=None), "bbox must be 4 numbers, got None"),
    # photos and their names
    "photo: empty": (photo(b""), NO_PHOTO),
    "photo: text": (photo(b"<svg/>"), NO_PHOTO),
    "photo: cut short": (photo(image()[:60]), NO_PHOTO),
    "photo: 16 bit": (photo(image("I;16")), NO_PHOTO),
    "photo: floats": (photo(image("F", form="tiff")), NO_PHOTO),
    "photo: a bomb": (photo(huge_png()), NO_PHOTO),
    "photo: turned": (photo(image(size=(48, 80))), "has 48 x 80 px, the annotations say 80 x 48"),
    "photo: missing": (listed(file_name="2.png"), "missing photo"),
    "photo: no name": (listed(file_name=None), "image 1: file_name must be a text, got None"),
    "photo: leaves the folder": (listed(file_name="../train2017/1.png"), "leaves the photo folder"),
    "photo: absolute": (listed(file_name="/etc/hostname"), "leaves the photo folder"),
    "photo: from the web": (listed(file_name="http://images/1.png"), "missing photo"),
    "photo: a zero in the name": (listed(file_name="a\0b.png"), "image 1: file_name must be a text"),
    "photo: the folder itself": (listed(file_name="."), "missing photo"),
    "photo: size as text": (listed(width="80"), "image 1: width must be a number of px, got '80'"),
    # weights
    "weights: missing": (weights(lambda path: None), "no such weights file; train the run first"),
    "weights: empty": (weights(Path.touch), "is truncated or no safetensors file"),
    "weights: a folder": (weights(Path.mkdir), "is truncated or no safetensors file"),
    "weights: a pickle": (weights(lambda path: torch.save(Trap(path.parent), path)), "no safetensors file"),
    "weights: a header without end": (weights(lambda path: path.write_bytes(struct.pack("<Q", 2**60))),
                                      "is truncated or no safetensors file"),
    "weights: of another program": (weights(lambda path: safetensors.torch.save_file({"a": torch.zeros(1)}, path)),
                                    "holds another architecture's weights that do not fit"),
    "weights: wider": (other_model(width=8), "weights that do not fit model.architecture unet, width 4"),
    "weights: another stride": (other_model(heatmap_stride=4), "holds unet weights that do not fit"),
    # notebooks and their parameters
    "notebook: missing": (notebook(None), "no notebook '10_some'"),
    "notebook: no JSON": (notebook(b"seed: int = 0"), "notebook 10_some is no valid notebook"),
    "notebook: other JSON": (notebook(b"[1, 2]"), "notebook 10_some is no valid notebook"),
    "notebook: no parameters cell": (notebook("seed: int = 0", tags=()), "has no cell tagged `parameters`"),
    "notebook: untyped parameter": (notebook("seed = 0", {"seed": "1"}), "parameter seed has no type"),
    "notebook: type of its own": (notebook("seed: Seed = 0", {"seed": "1"}), "parameter seed has no type"),
    "notebook: unknown parameter": (notebook("seed: int = 0", {"sed": "1"}), "has no parameter 'sed'; it has: seed"),
    "parameter: text for int": (parameter("seed", "one"), "parameter seed must be int, got 'one'"),
    "parameter: float for int": (parameter("seed", "1.0"), "parameter seed must be int, got '1.0'"),
    "parameter: truth for int": (parameter("seed", "true"), "parameter seed must be int, got 'true'"),
    "parameter: list for dict": (parameter("overrides", "[1]"), "parameter overrides must be dict, got '[1]'"),
    "parameter: open brace": (parameter("overrides", "{a: 1"), "parameter overrides is no valid YAML"),
    "parameter: int for text": (parameter("arm", "3"), "parameter arm must be str, got '3'"),
    "parameter: python object": (parameter("arm", "!!python/name:os.system"), "parameter arm is no valid YAML"),
    # what stages hand to one another
    "split: missing": (file(lambda path: read_split(path, make_crops(4)), None), "no split file"),
    "split: cut short": (file(lambda path: read_split(path, make_crops(4)), b'{"image_ids": ['), "or no split"),
    "split: other annotations": (split(annotations_sha256="b" * 64), "was made for other annotations"),
    "split: other persons": (split(annotation_ids=[5]), "does not fit the packed crops: 1 of its 1 persons"),
    "split: nobody": (split(annotation_ids=[], image_ids=[]), "does not fit the packed crops"),
    "crops: missing": (file(load_crops, None), "no packed crops"),
    "crops: cut manifest": (crops(lambda folder: (folder / "manifest.json").write_text("{")), "is truncated"),
    "crops: other schema": (crops(lambda folder: (folder / "manifest.json").write_text('{"schema": 0}')), "schema 1"),
    "crops: cut pixels": (crops(lambda folder: (folder / "crops.npy").write_bytes(b"\x93NUM")), "truncated or foreign"),
    "crops: other pixels": (crops(lambda folder: flip_last_byte(folder / "crops.npy")), "is not what was packed"),
    "crops: objects": (crops(lambda folder: np.savez(folder / "persons.npz", keypoints=np.array([Trap(folder)]))),
                       "truncated or foreign crops"),
    "predictions: missing": (file(read_predictions, None), "no predictions"),
    "predictions: text": (file(read_predictions, b"PAR1"), "is truncated or holds no predictions"),
    "predictions: other columns": (file(read_predictions, table(a=[1])), "is truncated or holds no predictions"),
    "record: missing": (file(read_json, None), "the stage that writes it has not run"),
    "record: cut short": (file(read_json, b'{"AP": 1'), "is no valid JSON"),
    "log: cut short": (logs(b'{"step": 1}\n{"ste'), "has a line that is no JSON"),
    "examples: objects": (examples, "Object arrays cannot be loaded when allow_pickle=False"),
}


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("name", CORPUS)
def test_bad_input_is_one_line_that_names_the_cause(name: str, tmp_path: Path, monkeypatch):
    act, message = CORPUS[name]
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError)) as caught:  # what the command line turns into a line
        act(tmp_path)
    line = describe_error(caught.value)
    assert message in line
    assert len(line) < 600
    kept = tmp_path / "crops.partial"  # packing goes on from there, once the photo is right
    assert set(tmp_path.rglob("*.partial")) <= {kept}
    assert not list(tmp_path.rglob("sprung")), "a pickle was loaded"


def test_the_corpus_is_large():
    assert len(CORPUS) >= 60


@pytest.mark.parametrize(("arguments", "message"), [
    (["repro", "--profile", "smok"], "error: unknown profile 'smok'; there are: default, "),
    (["repro", "--profile", "../smoke"], "error: unknown profile '../smoke'"),
    (["repro", "--profile", "smoke", "--data", "photos"], "error: profile smoke renders its own data"),
    (["cells", "--profile", "smoke", "--data", "photos"], "error: profile smoke renders its own data"),
    (["notebook", "40_trian"], "error: no notebook '40_trian'; there are: 10_data"),
    (["notebook", "../params"], "error: no notebook '../params'"),
    (["notebook", "40_train", "-p", "arm", "best"], "error: notebook 40_train"),
])
def test_a_wrong_command_is_one_line_and_exit_status_1(arguments, message, capsys, tmp_path):
    if arguments[0] == "notebook":
        arguments = [*arguments, "-o", str(tmp_path / "out.ipynb")]
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)


def test_output_that_nobody_reads_to_its_end_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "ssl_pose", "plan", "--profile", "smoke"], stdout=writer,
                          stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
