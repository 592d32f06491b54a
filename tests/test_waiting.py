"""On a CPU: no step, and nothing of the loop but its log rows and states, asks what a GPU would make it wait for.

What `tests/test_cuda.py` measures on a GPU, read off the operations that a CPU dispatches. It cannot see what a CPU
does not do: a copy between devices.
"""

from __future__ import annotations

import dataclasses
import itertools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import ssl_pose.training as training_module
from ssl_pose.batches import open_pool
from ssl_pose.config import FRAMEWORKS
from ssl_pose.strong_paths import STRONG_PATHS
from ssl_pose.training import train_run
from tests.fake_crops import make_crops
from tests.golden_trace import small_config, write_start
from tests.test_cuda import CPU, METHODS, Step, arm

READING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim",
           "unique_consecutive", "argwhere")  # their answer, or its shape, hangs on values that the host must have
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")  # they do so by masks alone


class Waits(TorchDispatchMode):
    """Notes in `found` every operation that would wait for a GPU, with the line of the package that asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.lists = _Lists(self)

    def __enter__(self) -> Waits:
        self.lists.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.lists.__exit__(*error)

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = operation.overloadpacket.__name__
        masks = name in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1])
        if masks or name in READING:
            self.note(name)
        return operation(*args, **(kwargs or {}))

    def note(self, name: str) -> None:
        lines = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_stack()
                 if "/ssl_pose/" in frame.filename]
        self.found.append(" ".join((name, *lines[-1:])))


class _Lists(TorchFunctionMode):
    """`tolist`, which on a CPU dispatches nothing."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is torch.Tensor.tolist:
            self.waits.note("tolist")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("ask", [
    lambda values: values.sum().item(), lambda values: bool((values > 0).any()), lambda values: values.nonzero(),
    lambda values: values[values > 0], lambda values: values.masked_select(values > 0), lambda values: values.tolist(),
    lambda values: torch.equal(values, values), lambda values: torch.where(values > 0),
])
def test_what_needs_the_values_is_noticed(ask: Callable[[torch.Tensor], Any]):
    with Waits() as waits:
        ask(torch.arange(3.0))
    assert waits.found


def test_what_stays_on_the_device_is_not_noticed():
    values = torch.arange(3.0)
    with Waits() as waits:
        values[torch.tensor([0, 2])] + torch.where(values > 0, values, 0.0).amax() + values[1:2]
    assert waits.found == []


def test_every_framework_and_strong_path_is_among_the_methods():
    assert {method["framework"] for method in METHODS.values()} == set(FRAMEWORKS)
    assert {path for name in METHODS for path in arm(small_config(), name).strong_paths} == set(STRONG_PATHS)


@pytest.mark.parametrize("name", METHODS)
def test_no_step_asks_for_values(name: str):
    config = small_config()
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, precision="bf16"))
    step, pool = Step(config, name, CPU), open_pool(make_crops(24), CPU)
    with Waits() as waits:
        step.losses(step.draw(pool, 0))
        step.update()
    assert waits.found == []


@pytest.mark.parametrize("name", ["full", "teacher_student_refine"])
def test_a_run_asks_for_values_only_where_it_logs(name: str, tmp_path: Path, monkeypatch):
    config = small_config()
    numbers = dataclasses.replace(config.training, steps=10, log_every=4, checkpoint_every=100)
    config = dataclasses.replace(config, training=numbers)
    write_start(config, tmp_path / "start.safetensors")
    waits, real, before = Waits(), training_module.draw_labeled, []

    def noting(*given: Any) -> Any:
        before.append(len(waits.found))
        return real(*given)

    monkeypatch.setattr(training_module, "draw_labeled", noting)
    with waits:
        train_run(config, name, 0, make_crops(24), np.arange(24) < 8, tmp_path / "start.safetensors",
                  tmp_path / "model.safetensors", tmp_path, tmp_path / "state")
    asked = [step for step, (first, then) in enumerate(itertools.pairwise(before), start=1) if then > first]
    assert asked == [4, 8]
