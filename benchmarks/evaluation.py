"""Evaluation of COCO val2017's 6,352 persons: decoding and OKS, against pycocotools alone."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import torch
from pycocotools.cocoeval import COCOeval

from benchmarks.samples import random_crops
from benchmarks.timing import time_alternately
from ssl_pose.heatmap import decode_heatmaps
from ssl_pose.profiles import open_profile
from ssl_pose.scoring import coco_results, ground_truth, score_coco

NUM_PERSONS = 6352
BATCH = 128


def run(device: torch.device) -> tuple[list[dict], dict[str, float]]:
    """Seconds of decoding every person's heatmaps, of scoring, and of pycocotools within it."""
    config = open_profile("default").config
    crops = random_crops(config, NUM_PERSONS)
    keypoints = crops.keypoints + np.random.default_rng(1).normal(0, 3, crops.keypoints.shape)
    score = np.random.default_rng(2).uniform(0, 1, NUM_PERSONS)
    heatmaps = torch.rand(BATCH, 17, 64, 48, device=device)
    truth = ground_truth(crops)
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes(coco_results(crops, keypoints, score))

    def decode() -> None:
        for _ in range(-(-NUM_PERSONS // BATCH)):
            decode_heatmaps(heatmaps, config.evaluation.decoder, config.model.heatmap_sigma)

    def library() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(truth, found, "keypoints")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()

    seconds = time_alternately(
        {"decoding": decode, "scoring": lambda: score_coco(crops, keypoints, score), "pycocotools": library}, 1, device)
    rows = [{"work": name, "seconds": value} for name, value in seconds.items()]
    return rows, {"decoding and scoring over pycocotools":
                  (seconds["decoding"] + seconds["scoring"]) / seconds["pycocotools"]}
