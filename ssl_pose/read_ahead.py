"""Rows of a memory-mapped array on a device; where it is too large to lie there, read by a thread before their turn.

What a step will ask for is known before it begins (batches.py), so a thread can fetch it while the step before it
computes: from the disk, and through page-locked memory to the GPU on a stream of its own. Which rows come is decided
by who asks, never by the thread's pace; at most `MOST_EXPECTED` batches wait, and what goes wrong in the thread is
raised where its rows are asked for.
"""

from __future__ import annotations

import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import psutil
import torch
from torch import Tensor

from ssl_pose.coco import DataError
from ssl_pose.config import GPU_SHARE

SHARE_OF_FREE_MEMORY = 0.5  # an array that fits into this share of a device's free memory is at hand there
MOST_EXPECTED = 4  # batches: a labelled and an unlabelled one of this step and of the next


class Rows:
    """Rows of an array (N, ...) in memory, copied; those of a memory-mapped file are read from it.

    A page fault brings far more than the page, a read just the row: of a file that the memory does not hold, 24 rows
    of 20 KB took 0.2 ms by reads, 90 ms and more by faults.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        whole = isinstance(array.base, mmap.mmap)  # a slice of a mapped file does not say where it begins
        self.file = open(array.filename, "rb", buffering=0) if whole else None  # noqa: SIM115 - for as long as self

    def read(self, index: np.ndarray) -> np.ndarray:
        """The rows at `index` (B,); `DataError` where the file has become shorter than it was."""
        if self.file is None:
            return np.take(self.array, index, axis=0)
        rows = np.empty((len(index), *self.array.shape[1:]), self.array.dtype)
        for row, number in zip(rows, index.tolist(), strict=True):
            if not 0 <= number < len(self.array):
                raise IndexError(f"row {number} of {len(self.array)}")
            if os.preadv(self.file.fileno(), [row], self.array.offset + number * row.nbytes) < row.nbytes:
                raise DataError(f"{self.array.filename} was cut short while it was in use; pack the crops again")
        return rows


class Resident:
    """Rows of pixels that lie on the GPU, or on a CPU in a file of which the system keeps what it can in memory."""

    def __init__(self, pixels: np.ndarray, device: torch.device) -> None:
        if device.type == "cuda":
            self.resident = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
        else:
            self.resident = Rows(pixels)

    def expect(self, index: Tensor) -> None:
        """Nothing to do: every row is at hand."""

    def gather(self, index: Tensor) -> Tensor:
        """The rows (B, ...) at `index` (B,) on the device."""
        if isinstance(self.resident, Rows):
            return torch.from_numpy(self.resident.read(index.numpy()))
        return self.resident[index.to(self.resident.device, non_blocking=True)]


class ReadAhead:
    """Rows of pixels that do not fit: `expect` has a thread fetch them, `gather` waits for those that it asks for."""

    def __init__(self, pixels: np.ndarray, device: torch.device) -> None:
        self.rows, self.device = Rows(pixels), device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self.expected: dict[bytes, Future] = {}

    def expect(self, index: Tensor) -> None:
        """Has the rows at `index` (B,) fetched; the oldest that nobody asked for are given up."""
        index = index.cpu()
        while len(self.expected) >= MOST_EXPECTED:
            self.expected.pop(next(iter(self.expected))).cancel()
        self.expected[_key(index)] = self.thread.submit(self._fetch, index)

    def gather(self, index: Tensor) -> Tensor:
        """The rows (B, ...) at `index` (B,) on the device, whether or not they were expected."""
        index = index.cpu()
        expected = self.expected.pop(_key(index), None)
        rows, arrived = expected.result() if expected else self._fetch(index)
        if arrived is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(arrived)
            rows.record_stream(current)
        return rows

    def _fetch(self, index: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """The rows, and on a GPU the event of their arrival."""
        rows = torch.from_numpy(self.rows.read(index.numpy()))
        if self.stream is None:
            return rows, None
        with torch.cuda.stream(self.stream):  # page-locked memory is used anew only once its copy is done
            return rows.pin_memory().to(self.device, non_blocking=True), self.stream.record_event()


def open_rows(pixels: np.ndarray, device: torch.device, on_device: str = "auto") -> Resident | ReadAhead:
    """Rows of `pixels` (N, ...) that lie on `device`, or are read ahead of their turn.

    `on_device` is 'always', 'never', or 'auto': if they fit into half of the device's free memory, of which a process
    that shares a GPU with others counts its share: they look at the same memory before any of them has filled it.
    """
    if on_device != "auto":
        return (Resident if on_device == "always" else ReadAhead)(pixels, device)
    if device.type == "cuda":
        free = float(os.environ.get(GPU_SHARE, "1")) * torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    return (Resident if pixels.nbytes <= SHARE_OF_FREE_MEMORY * free else ReadAhead)(pixels, device)


def _key(index: Tensor) -> bytes:
    return index.numpy().tobytes()
