"""Reading ahead: the rows that are asked for, read before their turn, whatever is asked and whatever goes wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ssl_pose import read_ahead
from ssl_pose.batches import draw_labeled, draw_unlabeled, open_pool
from ssl_pose.coco import DataError
from ssl_pose.config import GPU_SHARE
from ssl_pose.read_ahead import MOST_EXPECTED, ReadAhead, Resident, Rows, open_rows
from tests.fake_crops import make_crops
from tests.golden_trace import small_config, trace

CPU = torch.device("cpu")


@pytest.fixture
def pixels(tmp_path) -> np.ndarray:
    """20 memory-mapped rows of 3x5 px, each of its number."""
    np.save(tmp_path / "pixels.npy", np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(5, 2).repeat(3, 1))
    return np.load(tmp_path / "pixels.npy", mmap_mode="r")


def test_what_was_expected_is_read_before_it_is_asked_for(pixels):
    reader, index = ReadAhead(pixels, CPU), torch.tensor([7, 0, 19, 7])
    reader.expect(index)
    (expected,) = reader.expected.values()
    rows, _ = expected.result()  # nobody has asked
    assert rows[:, 2, 4, 0].tolist() == [7, 0, 19, 7]
    assert reader.gather(index) is rows
    assert not reader.expected


def test_what_was_not_expected_is_read_when_it_is_asked_for_and_more_than_a_few_batches_never_wait(pixels):
    reader = ReadAhead(pixels, CPU)
    for first in range(19):
        reader.expect(torch.tensor([first, first + 1]))
    assert len(reader.expected) == MOST_EXPECTED
    for first in (18, 0, 17, 3):
        index = torch.tensor([first, first + 1])
        assert torch.equal(reader.gather(index), Resident(pixels, CPU).gather(index))


def test_what_goes_wrong_in_the_thread_is_raised_where_its_rows_are_asked_for(pixels):
    reader, index = ReadAhead(pixels, CPU), torch.tensor([3, 20])
    reader.expect(index)
    with pytest.raises(IndexError, match="20"):
        reader.gather(index)
    assert reader.gather(torch.tensor([3]))[0, 0, 0, 0] == 3


def test_rows_of_a_whole_file_of_a_slice_of_it_and_of_memory_are_the_array_s_own(pixels):
    index = np.array([3, 0, 3, 5])
    for array in (pixels, pixels[2:], pixels[::2], np.array(pixels)):
        assert np.array_equal(Rows(array).read(index), array[index])
    assert Rows(pixels).file is not None


def test_a_file_that_was_cut_short_is_named(pixels):
    rows = Rows(pixels)
    os.truncate(pixels.filename, pixels.offset + 5 * 15 + 7)
    assert rows.read(np.array([4]))[0, 0, 0, 0] == 4
    with pytest.raises(DataError, match=r"pixels\.npy was cut short while it was in use; pack the crops again"):
        rows.read(np.array([4, 5]))


def test_rows_are_at_hand_where_half_of_the_free_memory_holds_them(pixels, monkeypatch):
    for free, kind in ((2 * pixels.nbytes, Resident), (2 * pixels.nbytes - 1, ReadAhead)):
        monkeypatch.setattr(read_ahead.psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        assert type(open_rows(pixels, CPU)) is kind
        assert type(open_rows(pixels, CPU, "always")) is Resident
        assert type(open_rows(pixels, CPU, "never")) is ReadAhead


def test_processes_that_share_a_gpu_count_on_their_shares_of_its_memory(pixels, monkeypatch):
    """Four cells that start together would each see the whole memory free, and fill it four times."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (4 * pixels.nbytes, 4 * pixels.nbytes))
    for kind in (Resident, ReadAhead):
        monkeypatch.setattr(read_ahead, kind.__name__, lambda _pixels, _device, kind=kind: kind)
    for share, kind in (("1", Resident), ("0.5", Resident), ("0.25", ReadAhead)):
        monkeypatch.setenv(GPU_SHARE, share)
        assert open_rows(pixels, torch.device("cuda")) is kind


@pytest.fixture
def fetched(monkeypatch) -> list:
    """The batches that were not expected, and so read while the loop waited."""
    missed, gather = [], ReadAhead.gather

    def watched(self: ReadAhead, index: torch.Tensor) -> torch.Tensor:
        if read_ahead._key(index) not in self.expected:
            missed.append(index)
        return gather(self, index)

    monkeypatch.setattr(ReadAhead, "gather", watched)
    return missed


def draws(config, steps: range) -> Callable[[], list[torch.Tensor]]:
    method, rows = replace(config.method, num_views=1), torch.arange(24)

    def draw() -> list[torch.Tensor]:
        pool = open_pool(make_crops(24), CPU)
        return [images for step in steps
                for images in (draw_labeled(pool, rows[:8], config, 0, "run", step).images,
                               draw_unlabeled(pool, rows[8:], method, config, 0, step).view_images)]

    return draw


def test_every_step_but_the_first_finds_its_batches_read_across_the_pool_s_end_and_after_a_resume(
    fetched, monkeypatch
):
    for steps in (range(9), range(5, 9)):  # 16 persons of the pool in batches of 4: passes end after 4 and 8 steps
        draw = draws(small_config(), steps)
        plain = draw()
        assert not fetched
        with monkeypatch.context() as patch:
            patch.setattr(read_ahead, "SHARE_OF_FREE_MEMORY", 0.0)
            ahead = draw()
        assert all(torch.equal(*pair) for pair in zip(plain, ahead, strict=True))
        assert len(fetched) == 2  # the first step's, labelled and unlabelled
        fetched.clear()


def test_a_run_that_reads_ahead_ends_as_one_that_does_not(monkeypatch):
    at_hand = trace("full")
    monkeypatch.setattr(read_ahead, "SHARE_OF_FREE_MEMORY", 0.0)
    assert trace("full") == at_hand
