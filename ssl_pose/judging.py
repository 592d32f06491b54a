"""[I/O] Everything that is measured of one trained run, and the files in which it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssl_pose.coco import hash_file, write_results
from ssl_pose.config import ArmConfig, Config, fingerprint
from ssl_pose.crops import CropSet, canvas_to_reference, check_size
from ssl_pose.evaluation import (
    decode_to_canvas,
    headline,
    load_run,
    pool_examples,
    predict_keypoints,
    predict_readings,
    validation_examples,
    write_examples,
)
from ssl_pose.files import write_json
from ssl_pose.geometry import transform_points
from ssl_pose.heatmap import DECODERS, image_to_heatmap_points, render_heatmaps
from ssl_pose.model import heatmap_size
from ssl_pose.predictions import Predictions, dequantize, write_predictions
from ssl_pose.pseudo_quality import (
    PoolSample,
    judged_persons,
    predict_pool,
    sample_pool,
    score_pool,
    score_selection,
    write_pool,
)
from ssl_pose.scoring import canvas_to_photo, mean_of_known, score_coco, score_network
from ssl_pose.splits import arm_labels

SECTIONS = ("data", "synthetic", "splits", "model", "views", "training", "evaluation")  # that shape an evaluation


def evaluation_fingerprint(config: Config, arm_name: str, seed: int, model_path: Path) -> str:
    """Hash of the weights in `model_path` and of the numbers by which `evaluate_run` judges them."""
    shown = seed == config.seeds[0]  # whose examples are kept
    return fingerprint(arm_name, seed, shown, config.arm(arm_name).method, hash_file(model_path),
                       *(getattr(config, section) for section in SECTIONS))


def evaluate_run(
    config: Config, arm_name: str, seed: int, train: CropSet, val: CropSet, split: np.ndarray, model_path: Path,
    folder: Path,
) -> dict[str, Any]:
    """Scores the networks in `model_path`; writes what it finds to `folder` and returns the record.

    `split` (N,) is the seed's labelled mask of the N persons of `train`. Files: metrics.json (the record),
    scores.json (its headline), predictions.parquet, pseudo_labels.parquet, examples.npz, and keypoints.json
    beside the model.
    """
    arm, rules = config.arm(arm_name), config.evaluation
    for crops in (train, val):
        check_size(crops, config.data)
    labeled = arm_labels(arm, split, train, config.splits, seed)
    networks = load_run(model_path, config)
    predictions = predict_keypoints(networks, val, config)
    scores = {str(part.network): score_network(val, part, rules.pck_thresholds, rules.pck_reference)
              for part in predictions}
    summary = headline(scores, arm)
    reported = predictions[arm.reported_networks[0]]
    write_predictions(folder / "predictions.parquet", predictions[: len(networks)])
    write_results(model_path.with_name("keypoints.json"), val.image_id,
                  canvas_to_photo(dequantize(reported.keypoints), val.crop_matrix), reported.score)

    persons, excluded = judged_persons(train, val, labeled)
    sample = sample_pool(persons, excluded, config, seed)
    answers = [predict_pool(networks[number], number, persons, sample, config, arm, seed)
               for number in arm.label_networks]
    write_pool(folder / "pseudo_labels.parquet", answers, sample)
    count = rules.num_examples if seed == config.seeds[0] else 0  # nobody looks at the other seeds'
    write_examples(folder / "examples.npz", {
        **validation_examples(val, reported, count),
        **pool_examples(networks[arm.label_networks[0]], persons, sample, config, arm, seed, count),
    })
    size = heatmap_size(config.data.input_size, config.model.heatmap_stride)
    record = {
        "arm": arm_name, "seed": seed, "networks": scores, **summary,
        "decoding": compare_decoders([networks[number] for number in arm.reported_networks], val, config),
        "pseudo": score_pool(answers, sample, arm.confidence_threshold, size),
        "pseudo_by_strength": score_strengths(networks, persons, sample, config, arm, seed),
        "selection": score_selection(answers, sample, arm),
    }
    write_json({name: value for name, value in summary.items() if value is not None}, folder / "scores.json")
    write_json(record, folder / "metrics.json")
    return record


def score_strengths(
    networks: list[nn.Module], persons: CropSet, sample: PoolSample, config: Config, arm: ArmConfig, seed: int
) -> dict[str, dict[str, dict[str, float | None]]]:
    """`score_pool` by each of `evaluation.view_strengths` but 1, the family's own."""
    size = heatmap_size(config.data.input_size, config.model.heatmap_stride)
    table = {}
    for strength in config.evaluation.view_strengths:
        if strength != 1:
            answers = [predict_pool(networks[number], number, persons, sample, config, arm, seed, strength)
                       for number in arm.label_networks]
            table[f"{strength:g}"] = score_pool(answers, sample, arm.confidence_threshold, size)
    return table


def compare_decoders(networks: list[nn.Module], val: CropSet, config: Config) -> dict[str, dict[str, float | None]]:
    """AP by decoder, with and without flip test: means over `networks`. Also of the true heatmaps (`oracle`).

    What the oracle falls short of 100 is lost by encoding and decoding alone.
    """
    found = predict_readings(networks, val, config, [(decoder, flip) for decoder in DECODERS for flip in (False, True)])
    table = {}
    for decoder in DECODERS:
        truth = oracle_predictions(val, config, decoder)
        table[decoder] = {"oracle": score_coco(val, dequantize(truth.keypoints), truth.score)["AP"]}
        for name, flip_test in (("plain", False), ("flip", True)):
            known = [score_coco(val, dequantize(part.keypoints), part.score)["AP"]
                     for part in found[decoder, flip_test][: len(networks)]]
            table[decoder][name] = mean_of_known(known)
    return table


def oracle_predictions(val: CropSet, config: Config, decoder: str) -> Predictions:
    """What a perfect network would score: the true heatmaps of N persons, decoded."""
    model, size = config.model, config.data.input_size
    to_reference = canvas_to_reference(val.canvas_size, size)
    points = transform_points(to_reference.expand(len(val), 3, 3), torch.from_numpy(np.asarray(val.keypoints)))
    cells = image_to_heatmap_points(points, model.heatmap_stride, model.heatmap_alignment)
    maps = render_heatmaps(cells, heatmap_size(size, model.heatmap_stride), model.heatmap_sigma)
    keypoints, confidence = decode_to_canvas(maps, to_reference, model, decoder)
    return Predictions(0, keypoints, confidence, confidence.mean(1, dtype=np.float32))

