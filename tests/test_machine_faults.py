"""The machine fails and is put right: a full disk, a disk that is read-only, too little memory, a clock set back.

Each fault is one line with its remedy, nothing half-written is read afterwards, and the same call goes on to the same
bits. Disks are small file systems in memory, since root may write wherever permissions forbid it.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ssl_pose.__main__ import describe_error
from ssl_pose.coco import load_persons
from ssl_pose.config import load_config
from ssl_pose.packing import pack_crops
from ssl_pose.synthetic import write_benchmark
from ssl_pose.training import burn_in, train_run
from ssl_pose.workspace import REPOSITORY
from tests.fake_crops import INPUT_SIZE, make_crops

LABELED = np.arange(24) < 8
ARM = "full"
ADDRESS_SPACE = 2**36  # bytes: ample for a kernel, and less than the cell asks for


class Disk:
    """A file system of its own, which can be filled, made read-only and put right again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.filler = folder, folder / "filler"

    def leave(self, room: int) -> None:
        """Fills the disk but for `room` bytes, by pages."""
        state = os.statvfs(self.folder)
        with self.filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, state.f_bavail * state.f_frsize - room))

    def free(self) -> None:
        self.filler.unlink()

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", folder], check=True)


def train(folder: Path) -> dict[str, bytes]:
    """Burn-in and one run below `folder`; the bytes of its weights and log."""
    config = load_config(REPOSITORY / "profiles" / "smoke" / "params.yaml")
    training = replace(config.training, burn_in_steps=2, steps=6, labeled_batch=4, unlabeled_batch=4, log_every=2,
                       checkpoint_every=2, device="cpu")
    config = replace(config, data=replace(config.data, input_size=INPUT_SIZE), training=training,
                     model=replace(config.model, width=4))
    crops, start = make_crops(24), folder / "burn_in.safetensors"
    if not start.exists():
        burn_in(config, 0, crops, LABELED, start, folder / "state" / "burn_in")
    train_run(config, ARM, 0, crops, LABELED, start, folder / "run" / "model.safetensors", folder / "run",
              folder / "state" / ARM)
    return {name: (folder / "run" / name).read_bytes() for name in ("model.safetensors", "log.jsonl")}


def prepare(folder: Path) -> dict[str, bytes]:
    """Renders people and packs them; the bytes of the pack."""
    if not (folder / "coco").exists():
        write_benchmark(folder / "coco", 6, 2, (96, 128), persons_per_photo=3.0, seed=0)
    pack_crops(folder / "coco", load_persons(folder / "coco", "train2017"), folder / "crops", (64, 48), 1.5, 1.25)
    return {path.name: path.read_bytes() for path in (folder / "crops").iterdir()}


def left_over(folder: Path) -> list[str]:
    """Files under temporary names, but for the pack that is gone on with."""
    return [path.name for path in folder.rglob("*.partial") if path.name != "crops.partial"]


@pytest.mark.parametrize(("act", "rooms"), [(train, (0, 40_000, 300_000, 800_000)), (prepare, (0, 30_000, 250_000))],
                         ids=["training", "data"])
def test_a_full_disk_is_one_line_and_the_same_call_goes_on_once_there_is_room(disk, tmp_path, act, rooms):
    expected, lines = act(tmp_path / "roomy"), []
    for room in rooms:
        disk.leave(room)
        try:
            act(disk.folder)
        except (ValueError, OSError) as error:
            lines.append(describe_error(error))
        assert not left_over(disk.folder)
        disk.free()
    assert len(lines) >= 2
    for line in lines:
        assert re.search(r"No space left on device.*; free (some space|the disk)", line), line
    assert act(disk.folder) == expected


@pytest.mark.parametrize("act", [train, prepare], ids=["training", "data"])
def test_a_disk_that_is_read_only_is_one_line_and_the_same_call_works_once_it_is_not(disk, tmp_path, act):
    disk.remount("ro")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the line below is what a person sees
        act(disk.folder)
    assert caught.value.errno == errno.EROFS
    assert "Read-only file system" in describe_error(caught.value)
    assert "make that place writable, then run the same command again" in describe_error(caught.value)
    disk.remount("rw")
    assert act(disk.folder) == act(tmp_path / "writable")


@pytest.mark.parametrize("then", [0, 4_000_000_000], ids=["1970", "2096"])
def test_training_goes_on_by_content_wherever_the_clock_stands(tmp_path, then):
    whole = train(tmp_path / "whole")
    folder = tmp_path / "parts"
    train(folder)
    for name in ("model.safetensors", "log.jsonl", "train.json"):
        (folder / "run" / name).unlink()
    for path in folder.rglob("*"):
        os.utime(path, (then, then))
    assert train(folder) == whole


def test_a_stage_without_enough_memory_is_one_line_that_says_so(tmp_path):
    """A cell asks for more than its process may have; the limit holds from that cell on, whatever start-up takes."""
    cells = [new_markdown_cell("# Big?"), new_code_cell("size: int = 0", metadata={"tags": ["parameters"]}),
             new_code_cell(f"import resource\nimport numpy as np\n"
                           f"resource.setrlimit(resource.RLIMIT_AS, ({ADDRESS_SPACE}, {ADDRESS_SPACE}))\n"
                           "np.ones(2**40)"), new_code_cell("assert size == 0")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "10_big.ipynb")
    script = (f"from ssl_pose import notebook; from pathlib import Path; notebook.NOTEBOOKS = Path({str(tmp_path)!r});"
              "from ssl_pose.__main__ import main; raise SystemExit(main(['notebook', '10_big', '-o', 'out.ipynb']))")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 1
    *others, line = done.stderr.splitlines()
    assert not [other for other in others if "rror" in other or "Traceback" in other], done.stderr
    assert line.startswith("error: notebook 10_big, In [2]: out of memory (Unable to allocate 8.00 TiB"), done.stderr
    assert "lower the batch sizes in params.yaml or run fewer stages side by side (JOBS=1)" in line
    assert not (tmp_path / "out.ipynb").exists()
