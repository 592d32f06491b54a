"""A small results tree in the formats of the pipeline, for tests of what reads it: known effects, no training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ssl_pose.config import ArmConfig, Config, load_config
from ssl_pose.metrics import oks
from ssl_pose.predictions import Predictions, quantize, thousandths, write_predictions
from ssl_pose.results import MODES, run_directory
from ssl_pose.skeleton import KEYPOINT_NAMES

REPOSITORY = Path(__file__).resolve().parent.parent
AP = {  # of seed 0, percent; each further seed adds one point to all arms alike, and noise to each
    "supervised": 20.0, "teacher_student": 26.0, "teacher_student_refine": 28.0, "dual_student": 26.5,
    "dual_student_refine": 29.0, "dual_average": 27.0, "dual_maximum": 26.8, "dual_maximum_refine": 29.5,
    "full": 29.6, "all_labels": 50.0,
}
OTHER_AP = 25.0  # of an arm that is not among these
STRIDE, CELLS, JOINTS = 2, (32, 24), 17
ZOOM, AREA = 2.0, 400.0  # input px per photo px; photo px^2, the same for every person


def fake_config(num_seeds: int = 3) -> Config:
    return replace(load_config(REPOSITORY / "params.yaml"), profile="fake", seeds=tuple(range(num_seeds)))


def write_fake_results(results: Path, config: Config, num_persons: int = 12) -> Path:
    """Every file of every run of the grid under `results`, and the table of persons; returns `results`."""
    (results / "data").mkdir(parents=True)
    truth = np.random.default_rng(0).uniform(4, 40, (6, JOINTS, 2))
    fake_persons(truth).to_parquet(results / "data" / "val_persons.parquet")
    for arm in config.arms:
        for seed in config.seeds:
            folder = run_directory(results, arm, seed)
            folder.mkdir(parents=True)
            generator = np.random.default_rng([sum(arm.encode()), seed])
            labels = fake_pseudo_labels(config.arm(arm).framework, num_persons, generator)
            store_pseudo_labels(labels).to_parquet(folder / "pseudo_labels.parquet")
            _write_json(folder / "metrics.json", fake_metrics(arm, seed, config, labels, generator))
            _write_json(folder / "train.json", fake_record(arm, seed))
            rows = fake_log(config.arm(arm).framework, generator)
            (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            found = fake_predictions(truth, config.arm(arm), AP.get(arm, OTHER_AP), generator)
            write_predictions(folder / "predictions.parquet", found)
            np.savez(folder / "examples.npz", **fake_examples(6 if seed == config.seeds[0] else 0, generator))
    return results


def fake_persons(truth: np.ndarray) -> pd.DataFrame:
    """The table of persons, two a photo, with fully seen joints at `truth` (N, 17, 2) in canvas px."""
    count = len(truth)
    columns = {"person": np.arange(count, dtype=np.int32), "image_id": np.arange(count) // 2,
               "annotation_id": np.arange(count), "area": np.float32(AREA), "reference_length": np.float32(16.0)}
    columns |= {f"box_{name}": np.float32(20.0) for name in "xywh"}
    columns |= {"m00": ZOOM, "m01": 0.0, "m02": 0.0, "m10": 0.0, "m11": ZOOM, "m12": 0.0}
    for joint in range(JOINTS):
        columns |= {f"{axis}_{joint}": quantize(truth[:, joint, place]) for place, axis in enumerate("xy")}
        columns[f"v_{joint}"] = np.int8(2)
    return pd.DataFrame(columns)


def fake_predictions(truth: np.ndarray, arm: ArmConfig, level: float, generator: np.random.Generator) -> list:
    """Predictions of every network of a run: the higher `level`, the nearer to the truth."""
    found = []
    for network in range(2 if arm.framework in ("dual_student", "teacher_student") else 1):
        points = truth + generator.normal(0, 100 / level, truth.shape)
        confidence = generator.uniform(0.2, 0.9, truth.shape[:2]).astype(np.float16)
        found.append(Predictions(network, quantize(points), confidence, confidence.mean(1, dtype=np.float32)))
    return found


def fake_metrics(arm: str, seed: int, config: Config, labels: pd.DataFrame, generator: np.random.Generator) -> dict:
    tau, margin = config.arm(arm).confidence_threshold, config.arm(arm).uncertainty_margin
    pseudo, selection = fake_quality(labels, tau), fake_selection(labels, tau, margin)
    score = AP.get(arm, OTHER_AP) + seed + float(generator.normal(0, 0.2))
    single = config.arm(arm).framework in ("supervised", "consistency")
    networks = {str(n): fake_network(score + (n == 2)) for n in range(1 if single else 3)}
    decoding = {decoder: {"oracle": 99.0, "plain": score - place, "flip": score - place + 1}
                for place, decoder in enumerate(("dark", "quarter", "argmax"))}
    return {"arm": arm, "seed": seed, "networks": networks, "AP": score, "AR": score + 5, "pck": score + 10,
            "AP_ensemble": None if single else score + 1, "decoding": decoding, "pseudo": pseudo,
            "selection": selection}


def fake_network(score: float) -> dict:
    """The scores of one network; there is no large person."""
    return {"AP": score, "AP50": score + 20, "AP75": score - 10, "APM": score, "APL": None, "AR": score + 5,
            "pck_per_joint": {name: score + place for place, name in enumerate(KEYPOINT_NAMES)}}


def fake_quality(labels: pd.DataFrame, threshold: float) -> dict[str, dict[str, float]]:
    """The `pseudo` section of metrics.json, by a route of its own: joint by joint."""
    joints = labels[labels.visibility > 0].to_dict("records")
    quality = {}
    for mode in MODES:
        offsets = [(row[f"x_{mode}"] - row["true_x"], row[f"y_{mode}"] - row["true_y"]) for row in joints]
        reach = [0.2 * row["reference_length"] * 64 for row in joints]
        correct = [x * x + y * y <= r * r for (x, y), r in zip(offsets, reach, strict=True)]
        kept = [float(row[f"confidence_{mode}"]) >= threshold for row in joints]
        both = [right and high for right, high in zip(correct, kept, strict=True)]
        shares = {"pck": correct, "pck_above_threshold": both, "kept": kept}
        quality[mode] = {name: 100 * sum(hits) / len(hits) for name, hits in shares.items()}
        quality[mode] |= {"pck_refined": 50.0, "peer_accuracy": 40.0, "second_peak": 0.2, "num_peaks": 1.1}
        quality[mode]["mean_confidence"] = float(labels[f"confidence_{mode}"].astype(float).mean())
    return quality


def fake_selection(labels: pd.DataFrame, threshold: float, margin: float) -> dict | None:
    """The `selection` section of metrics.json for maps joined by their maximum, joint by joint."""
    sure: dict[tuple[int, int], dict[int, float]] = {}
    for row in labels[labels.visibility > 0].to_dict("records"):
        blank = float(row["confidence_maximum"]) < threshold
        uncertainty = float("inf") if blank else float(row["uncertainty"])
        sure.setdefault((row["person"], row["joint"]), {})[row["network"]] = uncertainty
    if set(labels.network) != {0, 1}:
        return None
    own = [100 * float(np.mean([u[n] + margin < u[1 - n] for u in sure.values()])) for n in (0, 1)]
    return {"own_share": own, "cross_share": [100 - share for share in own]}


def store_pseudo_labels(labels: pd.DataFrame) -> pd.DataFrame:
    """What is kept of `fake_pseudo_labels`: annotated joints, in thousandths."""
    labels = labels[labels.visibility > 0]
    kept = labels[["network", "image_id", "person", "joint", "uncertainty"]].copy()
    for mode in MODES:
        x, y = labels[f"x_{mode}"] - labels.true_x, labels[f"y_{mode}"] - labels.true_y
        kept[f"error_{mode}"] = thousandths(np.hypot(x, y) / 64 / labels.reference_length, up=True)
        kept[f"confidence_{mode}"] = thousandths(labels[f"confidence_{mode}"], up=False)
    return kept


def fake_pseudo_labels(framework: str, num_persons: int, generator: np.random.Generator) -> pd.DataFrame:
    """Rows (network, person, joint), two persons a photo; the error grows with the uncertainty, peaks with the mode."""
    networks = {"dual_student": (0, 1), "teacher_student": (1,)}.get(framework, (0,))
    person, joint = np.divmod(np.arange(num_persons * JOINTS), JOINTS)
    shared = {
        "true_x": generator.integers(0, 64 * CELLS[1], len(person), dtype=np.int32),
        "true_y": generator.integers(0, 64 * CELLS[0], len(person), dtype=np.int32),
        "visibility": generator.integers(0, 3, len(person), dtype=np.int8),
    }
    frames = []
    for network in networks:
        frame = pd.DataFrame({"network": np.int8(network), "image_id": person // 2, "person": person.astype(np.int32),
                              "joint": joint.astype(np.int8), **shared})
        uncertainty = generator.uniform(0.02, 0.3, len(person))
        peak = generator.uniform(0.1, 0.8, len(person))
        frame["reference_length"] = np.float32(8.0)
        for place, mode in enumerate(MODES):
            spread = 64 * uncertainty * (12 - place)
            for axis in ("x", "y"):
                frame[f"{axis}_{mode}"] = (frame[f"true_{axis}"] + generator.normal(0, spread)).astype(np.int32)
            frame[f"confidence_{mode}"] = (peak + 0.05 * place).astype(np.float16)
        frame["uncertainty"] = uncertainty.astype(np.float16)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def fake_record(arm: str, seed: int) -> dict:
    return {
        "arm": arm, "seed": seed, "git_sha": "0123456789abcdef", "git_dirty": False, "code_sha": "c" * 16,
        "config_sha": "d" * 16, "data_sha": "e" * 64, "versions": {"torch": "2.9.1", "python": "3.11.9"},
        "hardware": {"cpu": "a processor", "cores": 2, "threads": 1, "gpu": None},
        "wall_seconds": 61.5, "peak_memory_mib": 900, "steps": 300, "image_passes": 1000 * len(arm),
        "num_processes": 1,
    }


def fake_log(framework: str, generator: np.random.Generator) -> list[dict]:
    rows = []
    for step in (100, 200, 300):
        row = {"step": step, "supervised_loss": 1.0 / step, "learning_rate": 2.0e-3}
        if framework != "supervised":
            shares = generator.uniform(0.3, 0.6, 3).tolist()
            row |= dict(zip(("kept", "peak", "agreement"), shares, strict=True)) | {"consistency_loss": 0.1 / step}
        rows.append(row)
    return rows


def fake_examples(count: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """The arrays of examples.npz for `count` persons and as many pool persons, each with two views."""
    height, width = (STRIDE * cells for cells in CELLS)
    visibility = np.full((count, JOINTS), 2, np.uint8)
    true = generator.uniform(4, [width - 4, height - 4], (count, JOINTS, 2)).astype(np.float32)
    ankle = generator.uniform(4, [CELLS[1] - 4, CELLS[0] - 4], (count, 2)).astype(np.float32)
    spread = np.linspace(0.5, 4, count)[:, None, None]  # each person worse than the one before
    predicted = true + spread * np.sign(generator.normal(size=true.shape))
    views = np.stack([blobs(ankle + generator.normal(0, 2, ankle.shape)) for _ in range(2)], 1)
    return {
        "crops": generator.integers(0, 256, (count, height, width, 3), dtype=np.uint8),
        "persons": np.arange(count), "true_keypoints": true,
        "predicted_keypoints": predicted.astype(np.float32), "visibility": visibility,
        "oks": oks(predicted, true, visibility, np.full(count, AREA * ZOOM**2)),
        "pseudo_images": generator.integers(0, 256, (count, height, width, 3), dtype=np.uint8),
        "single_views": views.astype(np.float16), "average": views.mean(1).astype(np.float16),
        "maximum": views.max(1, initial=0).astype(np.float16), "true_pseudo_keypoint": ankle,
    }


def blobs(centers: np.ndarray) -> np.ndarray:
    """Gaussians (P, h, w) of sigma 1.5 at `centers` (P, 2), (x, y) in cells."""
    y, x = np.mgrid[: CELLS[0], : CELLS[1]]
    distance = np.square(x - centers[:, 0, None, None]) + np.square(y - centers[:, 1, None, None])
    return 0.7 * np.exp(-distance / (2 * 1.5**2))


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content))
