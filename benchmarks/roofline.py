"""What bounds network passes: operations against the measured matrix product, bytes against the measured copy.

Bytes are counted, not assumed: every operation of the passes reads its arguments and writes its results. Those that a
cache keeps between two operations are counted all the same: on a CPU, whose last cache holds much of a small network,
the bound by bytes is no strict one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssl_pose.precision import sums_in_fp32

COPIED = {"cpu": 2**26, "cuda": 2**31}  # bytes of the copy, more than a cache holds
WRITES_NOTHING = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class Counter(TorchDispatchMode):
    """Counts operations, and the bytes of all tensors that they read and write, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if not operation.is_view and operation.overloadpacket.__name__ not in WRITES_NOTHING:
            self.operations += 1
            self.bytes += sum(value.numel() * value.element_size() for value in tree_leaves((args, kwargs, result))
                              if isinstance(value, Tensor))
        return result


def count(work: Callable[[], object]) -> tuple[int, int]:
    """Operations of one call of `work`, each a launch or more on a GPU, and the bytes that they read and write."""
    with Counter() as counter:
        work()
    return counter.operations, counter.bytes


def with_counts(table: list[dict], counts: dict[str, tuple[int, int]]) -> list[dict]:
    """`table`, whose first column names the work, with columns of what was counted, and rows of what was not timed."""
    key = next(iter(table[0]))
    rows = table + [{key: name} for name in counts if name not in {row[key] for row in table}]
    columns = {name: {"operations": operations, "GB that they move": 1e-9 * moved}
               for name, (operations, moved) in counts.items()}
    return [row | columns.get(row[key], {}) for row in rows]


def copy_work(device: torch.device) -> Callable[[], object]:
    """Copies `COPIED` bytes, which moves twice as many."""
    source = torch.rand(COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def product_work(device: torch.device) -> tuple[Callable[[], object], int]:
    """A product of two matrices large enough to reach the device's peak, and its operations.

    In bf16, or in the format in which a processor without instructions for it makes the sums of passes in bf16.
    """
    size = 8192 if device.type == "cuda" else 1024
    dtype = torch.float32 if sums_in_fp32(device.type) else torch.bfloat16
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return lambda: left @ right, 2 * size**3
