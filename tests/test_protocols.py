"""Each protocol of COCO runs at reduced size, with its own network, input, schedule and split, on rendered photos."""

import json
from pathlib import Path

import numpy as np
import pytest

from ssl_pose.coco import load_persons
from ssl_pose.config import load_config
from ssl_pose.crops import load_crops
from ssl_pose.judging import evaluate_run
from ssl_pose.packing import pack_crops
from ssl_pose.persons import first_persons, training_persons
from ssl_pose.profiles import open_profile
from ssl_pose.splits import draw_labels, read_split, write_split
from ssl_pose.training import burn_in, train_run

REDUCED = {
    "model.pretrained": "none", "splits.nested_counts": [1], "training.device": "cpu", "training.burn_in_steps": 1,
    "training.precision": "fp32",  # a CPU that only emulates bf16 takes minutes a step
    "training.epochs": 1, "training.milestones": [1], "training.schedule": "cosine", "training.labeled_batch": 2,
    "training.num_threads": 2, "evaluation.batch_size": 8, "evaluation.num_pseudo_persons": 3,
    "evaluation.num_views": 1, "evaluation.num_examples": 2, "data.num_workers": 1, "data.max_val_persons": 3,
}
PROTOCOLS = {"coco_partial_500": 1, "coco_partial_1k": 2, "coco_partial_5k": 3, "coco_partial_10k": 4, "coco_full": 0}


# The others differ from coco_partial_1k in label count and length alone, as test_profiles.py proves.
QUICK = ("coco_partial_1k", "coco_full")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.soak)
                                  for name in PROTOCOLS])
def test_a_protocol_runs_from_photos_to_scores(rendered_coco: Path, tmp_path: Path, name: str):
    profile, label_count = open_profile(name), PROTOCOLS[name]
    assert bool(profile.config.splits.label_count) == bool(label_count)
    few = {"splits.label_count": label_count, "data.max_train_persons": 12 if label_count else 5}
    few["training.unlabeled_batch"] = 4 if label_count else 3
    config = load_config(profile.folder / "params.yaml", REDUCED | few)
    data, splits = config.data, config.splits
    records = {"train": training_persons(rendered_coco, data),
               "val": first_persons(load_persons(rendered_coco, "val2017"), data.max_val_persons)}
    for split, persons in records.items():
        pack_crops(rendered_coco, persons, tmp_path / split, data.input_size, data.canvas_scale, data.box_padding)
    train, val = load_crops(tmp_path / "train"), load_crops(tmp_path / "val")
    labeled = draw_labels(train, splits.label_count, 0, splits.method, splits.unit, splits.file)
    write_split(tmp_path / "split.json", train, labeled, label_count=label_count, seed=0, method=splits.method,
                unit=splits.unit)
    assert np.array_equal(read_split(tmp_path / "split.json", train), labeled)
    start, model, folder = tmp_path / "start.safetensors", tmp_path / "model.safetensors", tmp_path / "run"
    burn_in(config, 0, train, labeled, start, tmp_path / "state" / "burn_in")
    record = train_run(config, "full", 0, train, labeled, start, model, folder, tmp_path / "state" / "run")
    assert record["num_labeled"] == labeled.sum()
    assert record["num_unlabeled"] == len(train) - labeled.sum()
    assert record["steps"] == config.training.run_steps(record["num_unlabeled"])
    found = evaluate_run(config, "full", 0, train, val, labeled, model, folder)
    assert found["AP"] is not None
    assert len(json.loads((tmp_path / "keypoints.json").read_text())) == 3
    assert found["decoding"]["dark"]["oracle"] > 95
