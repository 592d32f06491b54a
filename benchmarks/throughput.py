"""The whole method's samples a second, what bounds them, and what torch.compile and CUDA graphs would make of them.

Meant for a GPU with the numbers of coco_partial_1k (goals: 1,500 unlabelled samples a second, and 90 % of the same
passes replayed as CUDA graphs); on a CPU it runs with those of the default profile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch._inductor.utils import fresh_inductor_cache

from benchmarks.roofline import COPIED, copy_work, count, product_work
from benchmarks.step import NUM_PERSONS, Case, build_case, network_passes, whole_step
from benchmarks.timing import as_graph, time_alternately
from ssl_pose.config import Config
from ssl_pose.costs import count_flops
from ssl_pose.profiles import open_profile
from ssl_pose.training import count_passes

ROUNDS = 5
NUM_VIEWS = 4
LARGER_BATCH = 128  # on a GPU: what its launches cost beside the protocol's 32


def run(device: torch.device) -> tuple[list[dict], dict[str, float]]:
    """Milliseconds of the step and of its passes in several forms, beside what operations and bytes take at least."""
    config = open_profile("coco_partial_1k" if device.type == "cuda" else "default").config
    config = replace(config, training=replace(config.training, precision="bf16"))
    rows, ratios = measure(config, device)
    if device.type == "cuda":
        batches = {"labeled_batch": LARGER_BATCH, "unlabeled_batch": LARGER_BATCH}
        larger, more = measure(replace(config, training=replace(config.training, **batches)), device)
        rows, ratios = rows + larger, ratios | {f"{name}, batch {LARGER_BATCH}": value for name, value in more.items()}
    return rows, ratios


def measure(config: Config, device: torch.device) -> tuple[list[dict], dict[str, float]]:
    """Rows and ratios at the batches of `config`."""
    case = build_case(config, "whole method", NUM_VIEWS, device)
    passes, (product, product_flops), copy = network_passes(case), product_work(device), copy_work(device)
    works = {"step": whole_step(case), "passes": passes}
    compiled, started = compiled_passes(config, device)
    works["passes, compiled"] = compiled
    if device.type == "cuda":
        works["passes, as a CUDA graph"] = replayed_passes(config, device)
    seconds = time_alternately(works | {"product": product, "copy": copy}, ROUNDS, device)
    peak, bandwidth = product_flops / seconds["product"], 2 * COPIED[device.type] / seconds["copy"]
    flops, moved = count_operations(case), count(passes)[1]
    bounds = {f"least by operations, at {1e-12 * peak:.3g} TFLOP/s": flops / peak,
              f"least by {1e-9 * moved:.3g} GB, at {1e-9 * bandwidth:.3g} GB/s": moved / bandwidth}
    batch = config.training.unlabeled_batch
    rows = [{"work": name, "batch": batch, "ms": 1e3 * value, "unlabeled/s": batch / value,
             "TFLOP/s": 1e-12 * flops / value, "share of peak": flops / value / peak,
             "s to start": started if name == "passes, compiled" else None}
            for name, value in ({name: seconds[name] for name in works} | bounds).items()]
    return rows, {f"{device.type}: step over {name}": seconds["step"] / seconds[name]
                  for name in ("passes", "passes, as a CUDA graph") if name in seconds}


def count_operations(case: Case) -> float:
    """Floating-point operations of one step's passes."""
    return count_passes(case.arm, case.config.training, 1, NUM_PERSONS) * count_flops(
        case.config.model, case.config.data.input_size)


def compiled_passes(config: Config, device: torch.device) -> tuple[Callable[[], None], float]:
    """The passes with networks that torch.compile compiled, as `training.compile` does, and seconds until they ran.

    Whatever an earlier run compiled is left aside, or the seconds would be those of reading it.
    """
    torch.compiler.reset()  # what was compiled in this process, for other batches
    case = build_case(config, "whole method", NUM_VIEWS, device)
    for network in case.students:
        network.compile()
    passes = network_passes(case)
    began = time.perf_counter()
    with fresh_inductor_cache():
        passes()
    return passes, time.perf_counter() - began


def replayed_passes(config: Config, device: torch.device) -> Callable[[], None]:
    """The passes recorded once and replayed as one CUDA graph: what they take without any launch from Python."""
    case = build_case(config, "whole method", NUM_VIEWS, device)
    for group in case.optimizer.param_groups:
        group["capturable"] = True  # its step counts lie on the GPU
    return as_graph(network_passes(case), device)
