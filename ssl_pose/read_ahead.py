"""Rows of a memory-mapped array on a device; where it is too large to lie there, read by a thread before their turn.

What a step will ask for is known before it begins (batches.py), so a thread can fetch it while the step before it
computes: from the disk, and through page-locked memory to the GPU on a stream of its own. Which rows come is decided
by who asks, never by the thread's pace; at most `MOST_EXPECTED` batches wait, and what goes wrong in the thread is
raised where its rows are asked for.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import psutil
import torch
from torch import Tensor

SHARE_OF_FREE_MEMORY = 0.5  # an array that fits into this share of a device's free memory is at hand there
MOST_EXPECTED = 4  # batches: a labelled and an unlabelled one of this step and of the next


class Resident:
    """Rows of pixels that lie on the GPU, or in the memory-mapped file on a CPU, whose cache of it the system keeps."""

    def __init__(self, pixels: np.ndarray, device: torch.device) -> None:
        self.pixels, self.on_gpu = pixels, device.type == "cuda"
        if self.on_gpu:
            self.resident = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)

    def expect(self, index: Tensor) -> None:
        """Nothing to do: every row is at hand."""

    def gather(self, index: Tensor) -> Tensor:
        """The rows (B, ...) at `index` (B,) on the device."""
        if self.on_gpu:
            return self.resident[index.to(self.resident.device, non_blocking=True)]
        return torch.from_numpy(self.pixels[index.numpy()])


class ReadAhead:
    """Rows of pixels that do not fit: `expect` has a thread fetch them, `gather` waits for those that it asks for."""

    def __init__(self, pixels: np.ndarray, device: torch.device) -> None:
        self.pixels, self.device = pixels, device
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
        rows = torch.from_numpy(np.take(self.pixels, index.numpy(), axis=0))
        if self.stream is None:
            return rows, None
        with torch.cuda.stream(self.stream):  # page-locked memory is used anew only once its copy is done
            return rows.pin_memory().to(self.device, non_blocking=True), self.stream.record_event()


def open_rows(pixels: np.ndarray, device: torch.device) -> Resident | ReadAhead:
    """Rows of `pixels` (N, ...): at hand if they fit into the GPU's, or the CPU's, free memory, else read ahead."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return (Resident if pixels.nbytes <= SHARE_OF_FREE_MEMORY * free else ReadAhead)(pixels, device)


def _key(index: Tensor) -> bytes:
    return index.numpy().tobytes()
