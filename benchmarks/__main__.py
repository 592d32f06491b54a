"""python -m benchmarks {run,check} [name ...]: measures, prints tables, keeps or compares what it found."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import evaluation, growth, input_path, options, pipeline, step, targets, throughput
from benchmarks.document import refresh
from benchmarks.results import FOLDER, compares_precisions, load, measured_code, processor, store, unmeasured, worsened
from benchmarks.timing import default_device
from ssl_pose.provenance import describe_hardware

TOLERANCE = 0.25  # share by which a ratio may grow
ATTEMPTS = 3  # measurements of what has grown, of which the least counts: ratios that hang on memory move by a third
BENCHMARKS: dict[str, Callable] = {
    "input_path": input_path.run, "step": step.run, "step_large": step.run_large, "options": options.run,
    "throughput": throughput.run, "targets": targets.run, "growth": growth.run, "evaluation": evaluation.run,
    "pipeline": pipeline.run,
}
ON_GPU = ("input_path", "step", "options", "throughput", "targets")  # there `step` takes the network of `step_large`


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("command", choices=["run", "check"])
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--missing", action="store_true", help="only what this code has not measured here yet")
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"unknown benchmark {min(unknown)!r}; there are: {', '.join(BENCHMARKS)}")
    torch.set_num_threads(1)
    names = given.names or list(ON_GPU if default_device().type == "cuda" else BENCHMARKS)
    if given.missing:
        names = [name for name in names if not is_measured(name)]
    if given.command == "check":
        return check(names)
    try:
        measure(names, FOLDER)
    finally:
        refresh()  # where a benchmark fails the document shows what those before it have stored
    return 0


def measure(names: list[str], folder: Path) -> None:
    """Results of a GPU stand beside those of a CPU, under names of their own."""
    for name in names:
        print(f"== {name}", flush=True)
        if found := BENCHMARKS[name](default_device()):
            store(result_name(name), *found, folder=folder)
        else:
            print("nothing to measure here yet: run `make repro` first; what git holds stays")


def is_measured(name: str) -> bool:
    """Whether the kept result of benchmark `name` is one of today's code, on this kind of device."""
    return is_kept(name) and load(result_name(name))["code_sha"] == measured_code()


def is_kept(name: str, folder: Path | None = None) -> bool:
    """Whether `folder` (none: git's) has a result of benchmark `name` on this kind of device."""
    return ((folder or FOLDER) / f"{result_name(name)}.json").exists()


def result_name(name: str) -> str:
    return f"{name}_gpu" if default_device().type == "cuda" else name


def comparable_ratios(name: str) -> dict[str, float]:
    """The kept ratios of benchmark `name`, of another processor without those that compare precisions."""
    result, here = load(result_name(name)), processor(describe_hardware())
    ratios, there = result["ratios"], processor(result["hardware"])
    if there == here:
        return ratios
    left_out = [key for key in ratios if compares_precisions(key)]
    print("; ".join([f"warning: {name}: kept results are of {there}, this is {here}",
                     *(f"{key} hangs on instructions and is not compared" for key in left_out)]), file=sys.stderr)
    return {key: value for key, value in ratios.items() if key not in left_out}


def check(names: list[str]) -> int:
    """Measures once more, into a folder of its own, and names every ratio that has grown.

    What has grown is measured again, and the least counts: other work on the machine makes ratios grow, never shrink.
    """
    for name in names:
        if not is_kept(name):
            print(f"warning: {name} was never measured on such a device, so that nothing can have grown",
                  file=sys.stderr)
    names = [name for name in names if is_kept(name)]
    kept = {name: comparable_ratios(name) for name in names}
    least: dict[str, dict[str, float]] = {name: {} for name in names}
    grown: list[str] = []
    for _ in range(ATTEMPTS):
        with tempfile.TemporaryDirectory() as folder:
            measure(names, Path(folder))
            measured = [name for name in names if is_kept(name, Path(folder))]
            for name in measured:
                for key, value in load(result_name(name), Path(folder))["ratios"].items():
                    least[name][key] = min(value, least[name].get(key, value))
        lines = {name: worsened(name, least[name], kept[name], TOLERANCE) for name in names}
        names, grown = [name for name in names if lines[name]], [line for name in names for line in lines[name]]
        if not names:
            break
    for line in (line for name in kept for line in unmeasured(name, least[name], kept[name])):
        print(f"warning: {line}", file=sys.stderr)
    for line in grown:
        print(f"error: {line}", file=sys.stderr)
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
