"""[I/O] Poses scored as published: COCO results JSON against an annotation file, by pycocotools.

Boxes are annotated ones or a detector's. Persons are rescored and doubles suppressed, as SimpleBaseline does it for
both, and all of the annotation file is the truth: crowds and persons without keypoints are regions to ignore.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from ssl_pose.coco import DataError, PersonRecords, annotation_path, load_persons, write_results
from ssl_pose.inference import PoseModel, Poses, predict_persons
from ssl_pose.persons import load_detections
from ssl_pose.scoring import SUMMARY, percent
from ssl_pose.suppression import rescore, suppress_by_photo


def score_on_directory(
    model: PoseModel, directory: Path, split: str, detections: Path | None, min_score: float, decoder: str,
    flip_test: bool, batch_size: int, output: Path,
) -> pd.DataFrame:
    """AP and the like of each network, of their mean score and of the mean of their heatmaps, as a table of percent.

    Writes the results JSON of each to the folder `output`, named as COCO's server wants it. Where the split has no
    annotations, as test-dev, the files are all that there is and the table is empty.
    """
    persons = boxes_to_score(directory, split, detections, min_score)
    print(f"{len(persons)} boxes of {split}: {json.dumps(persons.counts)}", flush=True)
    with tqdm(total=len(persons), desc="persons", disable=None) as bar:
        poses = predict_persons(model, directory, persons, decoder, flip_test, batch_size,
                                progress=lambda done, _: bar.update(done - bar.n))
    names = ["network"] if len(poses) == 1 else ["network 0", "network 1", "mean of heatmaps"]
    rows = {}
    for name, part in zip(names, poses, strict=True):
        path = output / f"person_keypoints_{split}_{name.replace(' ', '_')}_results.json"
        kept = write_poses(path, persons, part, model.box_padding, model.input_size[1] / model.input_size[0])
        print(f"{path}: {kept} persons", flush=True)
        if (directory / "annotations" / f"person_keypoints_{split}.json").is_file():
            rows[name] = score_results(directory, split, path)
    table = pd.DataFrame(rows, index=list(SUMMARY), dtype=float).T
    if len(rows) > 1:
        table.loc["mean of scores"] = table.iloc[:2].mean()
    return table


def boxes_to_score(directory: str | Path, split: str, detections: Path | None, min_score: float) -> PersonRecords:
    """The persons of `split` in their annotated boxes, or those of a detections file."""
    return load_detections(directory, split, detections, min_score) if detections else load_persons(directory, split)


def write_poses(path: Path, persons: PersonRecords, poses: Poses, box_padding: float, aspect: float) -> int:
    """Writes the results JSON of the persons that stay, and returns their number.

    The area by which doubles are told apart is that of the padded box, made to the input's `aspect` (width over
    height), as published.
    """
    score = rescore(persons.score, poses.confidence)
    width = np.maximum(persons.box_xywh[:, 2], persons.box_xywh[:, 3] * aspect)
    area = width * width / aspect * box_padding**2
    kept = suppress_by_photo(persons.image_id, poses.keypoints, score, area)
    write_results(path, persons.image_id[kept], poses.keypoints[kept], score[kept])
    return len(kept)


def score_results(directory: str | Path, split: str, path: Path) -> dict[str, float | None]:
    """COCO's ten numbers (SUMMARY), percent, of the results JSON in `path` on all photos of `split`."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress and its table
            truth = COCO(str(annotation_path(directory, split)))
            evaluation = COCOeval(truth, truth.loadRes(str(path)), "keypoints")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
    except (AssertionError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path} holds no results for {split} ({error!r}); give the results of its photos") from None
    return {name: percent(value) if value >= 0 else None
            for name, value in zip(SUMMARY, evaluation.stats.tolist(), strict=True)}
