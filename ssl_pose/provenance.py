"""How a result came about: code, numbers, data, versions, hardware, time and memory, as one JSON record."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import resource
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGE = Path(__file__).resolve().parent
VERSIONS_OF = ("torch", "torchvision", "numpy", "pycocotools")


def describe_run(code: dict[str, Any], config_hash: str, data_hash: str, wall_seconds: float) -> dict[str, Any]:
    """The record of a run that ends now in this process and began with `code`, what `describe_code` said then."""
    return {
        **code,
        "config_sha": config_hash,
        "data_sha": data_hash,
        "versions": describe_versions(),
        "hardware": describe_hardware(),
        "wall_seconds": round(wall_seconds, 1),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


@functools.cache  # a process runs what it imported, whatever is edited under it
def describe_code(*folders: str) -> dict[str, Any]:
    """Commit of the code, and whether tracked files of library, notebooks and `folders` differ from it.

    Where git is absent, the commit comes from the variable SSL_POSE_GIT_SHA, if that is set.
    """
    sha = _git("rev-parse", "HEAD") or os.environ.get("SSL_POSE_GIT_SHA", "unknown")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "ssl_pose", "notebooks", *folders)
    return {"git_sha": sha, "git_dirty": bool(changed), "code_sha": hash_code()}


def describe_versions() -> dict[str, str]:
    """Versions of Python and of the libraries on which numbers depend."""
    return {name: _version(name) for name in VERSIONS_OF} | {"python": platform.python_version()}


def hash_code(*others: Path) -> str:
    """Hash (16 hex digits) of the library's modules, and of `others`."""
    digest = hashlib.sha256()
    for path in [*sorted(PACKAGE.glob("*.py")), *others]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def describe_hardware() -> dict[str, Any]:
    """Processor and its vector instructions, its usable cores, threads of this process, and the GPU if there is one."""
    return {
        "cpu": f"{_cpu_name()} ({torch.backends.cpu.get_cpu_capability()})",  # speed and last bits hang on both
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
