"""[I/O] A trained run as a folder that others can use: weights, how to use them, and a model card.

The folder holds `model.safetensors`, `model.json` (input size and the like) and README.md, the card.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from ssl_pose.config import ConfigError, ModelConfig
from ssl_pose.crops import load_crops
from ssl_pose.evaluation import load_run
from ssl_pose.files import new_directory, write_json, write_text
from ssl_pose.inference import PoseModel
from ssl_pose.model import CheckpointError, load_networks, save_networks
from ssl_pose.persons import training_persons
from ssl_pose.profiles import open_profile
from ssl_pose.provenance import describe_code
from ssl_pose.pseudo_export import export_pseudo_labels
from ssl_pose.published import load_simplebaseline_checkpoint
from ssl_pose.skeleton import KEYPOINT_NAMES
from ssl_pose.splits import arm_labels, read_split
from ssl_pose.training import choose_device
from ssl_pose.workspace import Workspace

FORMAT = 1  # of model.json
FILES = {"model.safetensors", "model.json", "README.md"}


def open_run(here: Workspace, arm: str, seed: int) -> PoseModel:
    """The reported networks of a trained run: both students, the teacher, or the only network."""
    config = here.config
    trained = load_trained(here, arm, seed)
    networks = [trained[number] for number in config.arm(arm).reported_networks]
    return PoseModel(networks, config.model, config.data.input_size, config.data.box_padding,
                     precision=config.training.precision)


def load_trained(here: Workspace, arm: str, seed: int) -> list[nn.Module]:
    """All networks of a trained run, as `load_run` explains them; `ConfigError` where it has no weights."""
    path = here.model(arm, seed)
    if not path.exists():
        raise ConfigError(f"no weights {path}; train the run first: make repro PROFILE={here.config.profile}")
    return load_run(path, here.config)


def profile_workspace(name: str) -> Workspace:
    """The workspace of a profile's pipeline, from wherever it is asked for."""
    profile = open_profile(name)
    return Workspace(profile.config, profile.folder, profile.folder, {})


def open_profile_run(name: str, arm: str, seed: int) -> PoseModel:
    """`open_run` of a profile called `name`."""
    return open_run(profile_workspace(name), arm, seed)


def export_run(here: Workspace, arm: str, seed: int, folder: Path) -> Path:
    """Writes a run's reported networks and their card to `folder`, which must not hold anything else."""
    opened = open_run(here, arm, seed)
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if held and not {"model.json"} <= held <= FILES:
        raise ConfigError(f"{folder} holds something else than a model; name another folder")
    about = {
        "format": FORMAT, "profile": here.config.profile, "arm": arm, "seed": seed,
        "model": asdict(opened.model), "input_size": list(opened.input_size), "box_padding": opened.box_padding,
        "keypoints": list(KEYPOINT_NAMES),
    }
    with new_directory(folder) as partial:
        save_networks(partial / "model.safetensors", list(opened.networks), opened.model)
        write_json(about, partial / "model.json")
        write_text(_card(here, arm, seed, len(opened.networks)), partial / "README.md")
    return folder


def export_labels(here: Workspace, arm_name: str, seed: int, path: Path) -> dict[str, int]:
    """Writes what a run's label networks say of its unlabelled pool to `path`, a COCO file; returns the counts."""
    config, arm = here.config, here.config.arm(arm_name)
    networks, crops = load_trained(here, arm_name, seed), load_crops(here.crops("train"))
    labeled = arm_labels(arm, read_split(here.split(seed), crops), crops, config.splits, seed)
    persons = training_persons(here.coco, config.data)
    packed = np.isin(persons.annotation_id, crops.annotation_id)  # not those of photos that were left out as broken
    persons = persons.take(np.flatnonzero(packed))
    return export_pseudo_labels([networks[number] for number in arm.label_networks], persons, crops, labeled, config,
                                arm, seed, path)


def open_model(path: Path, input_size: tuple[int, int] | None = None, device: str = "auto") -> PoseModel:
    """The networks of an exported folder, or of a published checkpoint, which does not state its `input_size`."""
    target = choose_device(device)
    if not path.is_dir():
        return load_simplebaseline_checkpoint(path, input_size or (256, 192), target)
    try:
        about: dict[str, Any] = json.loads((path / "model.json").read_text())
        model = ModelConfig(**about["model"])
        size, padding = tuple(about["input_size"]), float(about["box_padding"])
    except FileNotFoundError:
        raise CheckpointError(f"{path} is no exported model: it has no model.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / 'model.json'} is truncated or of another format ({error})") from None
    return PoseModel(load_networks(path / "model.safetensors", model, target), model, size, padding)


def _card(here: Workspace, arm: str, seed: int, num_networks: int) -> str:
    """The model card: what the run was trained on and how, what it scores, what it is for and what not."""
    template = Environment(loader=PackageLoader("ssl_pose", "."), undefined=StrictUndefined, keep_trailing_newline=True,
                           trim_blocks=True).get_template("model_card.md.j2")
    folder = here.run(arm, seed)
    return template.render(
        config=here.config, arm=here.config.arm(arm), arm_name=arm, seed=seed, num_networks=num_networks,
        record=_read(folder / "train.json"), scores=_read(folder / "scores.json"), code=describe_code(),
        parameters=sum(value.numel() for network in open_run(here, arm, seed).networks for value in
                       network.parameters()), torch_version=torch.__version__,
    )


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
