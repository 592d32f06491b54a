"""The command line: python -m ssl_pose <command>. dvc.yaml, the Makefile and torchrun call it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssl_pose.files import remedy
from ssl_pose.workspace import PIPELINE, REPOSITORY, SCRATCH


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; an error of ours becomes one line on stderr and exit status 1."""
    given = build_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped run stops its stages, as Ctrl-C does
    try:
        given.command(given)
        sys.stdout.flush()
    except BrokenPipeError:  # who read our output has had enough, as `| head` has; what is left of it goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {describe_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def describe_error(error: ValueError | OSError) -> str:
    """One line: our own errors say what to do themselves, the system's are completed by it."""
    if not isinstance(error, OSError) or error.strerror is None:
        return " ".join(str(error).split())
    place = f": {error.filename}" if error.filename else ""
    return f"{error.strerror}{place}{remedy(error.errno)}"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ssl_pose", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    add_profile_commands(commands)
    add_stage_commands(commands)
    add_everyday_commands(commands)
    add_photo_commands(commands)
    add_model_commands(commands)
    return parser


def add_command(
    commands: argparse._SubParsersAction, name: str, run: Callable[[argparse.Namespace], None], text: str,
    *shared: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """A command that calls `run`, with the options of the parsers in `shared` and those that the caller adds."""
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", parents=shared)
    command.set_defaults(command=run)
    return command


def shared_option(name: str, **how: Any) -> argparse.ArgumentParser:
    """An option of several commands, to be handed to `add_command`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(name, **how)
    return parser


PROFILE = shared_option("--profile", default="default", help="default, or a folder of profiles/")
DATA = shared_option("--data", default="", help="COCO directory, for profiles with data.source coco")
JOBS = shared_option("--jobs", type=int, default=0, help="stages or cells side by side (0: as many as fit)")


def add_profile_commands(commands: argparse._SubParsersAction) -> None:
    """What brings the results of a profile about."""
    add_command(commands, "repro", run_repro, "bring every result of a profile up to date", PROFILE, DATA, JOBS)
    add_command(commands, "report", run_report, "delete tables, figures and report; rebuild them from git",
                PROFILE, JOBS)
    add_command(commands, "plan", print_plan, "what a profile will cost: cells, steps, images, hours, memory, disk",
                PROFILE, DATA, JOBS)
    cells = add_command(commands, "cells", run_grid, "train and evaluate the grid without notebooks and DVC",
                        PROFILE, DATA, JOBS)
    cells.add_argument("--arm", action="append", default=[], help="only this arm (may be given several times)")
    cells.add_argument("--evaluate-only", action="store_true", help="leave cells that are not trained alone")
    sweep = add_command(commands, "sweep", run_sweep, "run the missing cells of the grid on a Ray cluster",
                        PROFILE, DATA)
    sweep.add_argument("--address", default="", help="of the cluster, host:port (default: this machine alone)")
    sweep.add_argument("--gpus", type=float, default=0.0,
                       help="GPUs that each process of a cell takes; 0.25: four cells share one (default: a whole one)")


def add_stage_commands(commands: argparse._SubParsersAction) -> None:
    """What dvc.yaml and torchrun call, and a person who wants one notebook."""
    notebook = add_command(commands, "notebook", run_one_notebook, "execute one notebook")
    notebook.add_argument("name", help="file name in notebooks/, without .ipynb")
    notebook.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                          help="one of its parameters, the value in YAML (may be given several times)")
    notebook.add_argument("-o", "--output", type=Path, help="executed notebook (default: in scratch/)")
    notebook.add_argument("--pipeline", action="store_true", help="use the params.yaml of the current folder")
    add_command(commands, "code", write_code, "write work/code/<notebook>.py, which the stages depend on")
    add_command(commands, "source", write_source, "write work/source.json, the content hash of the photos")
    worker = add_command(commands, "worker", run_worker, "one process of a run on several; torchrun starts it")
    worker.add_argument("folder", type=Path, help="where the job lies")


def add_everyday_commands(commands: argparse._SubParsersAction) -> None:
    """Commands around an experiment: a new arm, the rules of notebooks, curves."""
    arm = add_command(commands, "new-arm", add_new_arm,
                      "add an arm to a profile's params.yaml: a new row of the tables")
    arm.add_argument("name", help="of letters, digits and _")
    arm.add_argument("--profile", default="smoke", help="default, or a folder of profiles/ (smoke)")
    arm.add_argument("--base", default="dual_student_refine",
                     help="the arm whose lines it starts from (dual_student_refine)")
    arm.add_argument("--title", default="", help="as tables show it (default: what differs)")
    arm.add_argument("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"),
                     help="a key of `method` in params.yaml (may be given several times)")
    rules = add_command(commands, "lint", lint_notebooks, "check the rules of notebooks")
    rules.add_argument("notebooks", type=Path, nargs="*", help="(default: all of notebooks/)")
    add_command(commands, "tensorboard", write_tensorboard, "write the runs' logs as TensorBoard's event files",
                PROFILE)


def add_photo_commands(commands: argparse._SubParsersAction) -> None:
    """Photos in: COCO's, or one's own."""
    coco = add_command(commands, "coco", fetch_photos, "download COCO 2017 into a folder, or complete what is there")
    coco.add_argument("directory", type=Path, help="the COCO directory")
    coco.add_argument("--unlabeled", action="store_true", help="also unlabeled2017 (20 GB), for COCO-Full")
    coco.add_argument("--address", default="", help="another server with the same layout")
    own = add_command(commands, "own-data", build_own_data,
                      "make a COCO directory of your photos and labels for some of them")
    own.add_argument("photos", type=Path, help="folder of photos")
    own.add_argument("labels", type=Path, help="COCO-style JSON with keypoints of the persons in some of them")
    own.add_argument("output", type=Path, help="the COCO directory to make")
    own.add_argument("--boxes", type=Path, help="who is where in the other photos: JSON, boxes by file name")
    own.add_argument("--val-share", type=float, default=0.2, help="share of labelled photos held back (0.2)")


def add_model_commands(commands: argparse._SubParsersAction) -> None:
    """Networks in and out, poses and scores out."""
    run = argparse.ArgumentParser(add_help=False, parents=[PROFILE])
    run.add_argument("--arm", default="full", help="a name under `arms` in params.yaml (full)")
    run.add_argument("--seed", type=int, default=0, help="the replicate (0)")
    predict = add_command(commands, "predict", predict_photos, "draw poses on photos", run)
    predict.add_argument("photos", type=Path, nargs="+", help="photos, or folders of them")
    predict.add_argument("--boxes", type=Path, help="who is where: JSON, boxes by file name (else: one person a photo)")
    predict.add_argument("-o", "--output", type=Path, default=Path("poses"), help="folder of the pictures (poses/)")
    predict.add_argument("--model", type=Path, help="exported folder or published checkpoint, instead of a run")
    export = add_command(commands, "export", export_model, "write a run's weights and model card to a folder", run)
    export.add_argument("output", type=Path, help="the folder")
    labels = add_command(commands, "pseudo-labels", export_pseudo_labels,
                         "write a run's pseudo-labels of its pool as a COCO file", run)
    labels.add_argument("output", type=Path, help="the JSON file")
    score = add_command(commands, "score", score_model,
                        "AP of an exported model or a published checkpoint on a COCO directory")
    score.add_argument("model", type=Path, help="exported folder or published checkpoint")
    score.add_argument("--data", type=Path, required=True, help="COCO directory")
    score.add_argument("--split", default="val2017", help="part of it: val2017, train2017 or test-dev2017 (val2017)")
    score.add_argument("--boxes", type=Path, help="a detector's boxes, COCO results JSON (else: annotated boxes)")
    score.add_argument("--min-score", type=float, default=0.0, help="least score of such a box (0)")
    score.add_argument("--flip", action="store_true", help="average with the mirror image")
    score.add_argument("--decoder", default="quarter", choices=["argmax", "quarter", "dark"],
                       help="from heatmap to point (quarter)")
    score.add_argument("--input-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"),
                       help="of a published checkpoint, px")
    score.add_argument("--batch-size", type=int, default=64, help="persons a pass (64)")
    score.add_argument("-o", "--output", type=Path, default=Path("scores"), help="folder of the results JSON (scores/)")


def run_repro(given: argparse.Namespace) -> None:
    from ssl_pose.pipeline import reproduce
    from ssl_pose.profiles import open_profile

    reproduce(open_profile(given.profile), data=given.data, jobs=given.jobs)


def run_report(given: argparse.Namespace) -> None:
    from ssl_pose.pipeline import rebuild_report
    from ssl_pose.profiles import open_profile

    rebuild_report(open_profile(given.profile), jobs=given.jobs)


def run_grid(given: argparse.Namespace) -> None:
    from ssl_pose.cells import run_profile

    run_profile(given.profile, given.jobs, given.arm, given.evaluate_only, given.data)


def run_one_notebook(given: argparse.Namespace) -> None:
    sys.modules["rfc3987_syntax"] = None  # jsonschema would build its check of URLs: 0.7 s, and unused here
    from ssl_pose.lifeline import interrupt_without_drivers
    from ssl_pose.notebook import run_notebook

    interrupt_without_drivers()
    parameters = dict(given.parameter)
    if given.pipeline:
        parameters |= {"params_file": "params.yaml", "workspace": PIPELINE}
    output = given.output or REPOSITORY / SCRATCH / "notebooks" / f"{given.name}.ipynb"
    run_notebook(given.name, parameters, output)


def write_code(given: argparse.Namespace) -> None:
    from ssl_pose.projection import write_projections

    write_projections(REPOSITORY / "notebooks", REPOSITORY / "ssl_pose", Path("work", "code"))


def write_source(given: argparse.Namespace) -> None:
    from ssl_pose.pipeline import record_source

    record_source(Path(PIPELINE))


def print_plan(given: argparse.Namespace) -> None:
    from ssl_pose.planning import plan
    from ssl_pose.profiles import open_profile

    print(plan(open_profile(given.profile), data=given.data, jobs=given.jobs))


def fetch_photos(given: argparse.Namespace) -> None:
    import json

    from ssl_pose.coco import SPLITS, UNLABELED
    from ssl_pose.download import COCO_PERSONS, OFFICIAL, count_persons, fetch_coco, official_archives

    splits = (*SPLITS, UNLABELED) if given.unlabeled else SPLITS
    fetch_coco(given.directory, official_archives(splits), given.address or OFFICIAL)
    for split, counts in count_persons(given.directory).items():
        print(f"{split}: {counts['persons']:,} persons (COCO's own: {COCO_PERSONS[split]:,}) of {json.dumps(counts)}")


def build_own_data(given: argparse.Namespace) -> None:
    from ssl_pose.own_data import build_directory

    counts = build_directory(given.photos, given.labels, given.output, given.boxes, given.val_share)
    print(f"{given.output}: " + ", ".join(f"{count} photos in {split}" for split, count in counts.items()))


def predict_photos(given: argparse.Namespace) -> None:
    from ssl_pose.exporting import open_model, open_profile_run
    from ssl_pose.own_photos import draw_photos

    model = open_model(given.model) if given.model else open_profile_run(given.profile, given.arm, given.seed)
    for picture in draw_photos(model, given.photos, given.output, given.boxes):
        print(picture)


def export_model(given: argparse.Namespace) -> None:
    from ssl_pose.exporting import export_run, profile_workspace

    print(export_run(profile_workspace(given.profile), given.arm, given.seed, given.output))


def export_pseudo_labels(given: argparse.Namespace) -> None:
    from ssl_pose.exporting import export_labels, profile_workspace

    counts = export_labels(profile_workspace(given.profile), given.arm, given.seed, given.output)
    print(f"{given.output}: {counts['persons']} persons, {counts['kept']} of {counts['joints']} joints kept")


def score_model(given: argparse.Namespace) -> None:
    from ssl_pose.challenge import score_on_directory
    from ssl_pose.exporting import open_model

    model = open_model(given.model, tuple(given.input_size) if given.input_size else None)
    table = score_on_directory(model, given.data, given.split, given.boxes, given.min_score, given.decoder, given.flip,
                               given.batch_size, given.output)
    print(table.round(1).to_string())


def run_sweep(given: argparse.Namespace) -> None:
    from ssl_pose.profiles import open_profile
    from ssl_pose.sweep import sweep

    sweep(open_profile(given.profile), address=given.address, gpus=given.gpus, data=given.data)


def add_new_arm(given: argparse.Namespace) -> None:
    from ssl_pose.arms import add_arm
    from ssl_pose.profiles import CHANGES, open_profile

    folder = open_profile(given.profile).folder
    if (folder / CHANGES).exists():
        raise ValueError(f"profile {given.profile} is derived: add the arm to its base, or edit {CHANGES}")
    body = add_arm(folder / "params.yaml", given.name, given.base, dict(given.set), given.title)
    print(f"{given.name} is in {os.path.relpath(folder / 'params.yaml')}:")
    for key, value in body.items():
        print(f"    {key}: {value}")
    print(f"Train it and see its row in Table 2: make repro PROFILE={given.profile}")


def lint_notebooks(given: argparse.Namespace) -> None:
    from ssl_pose.notebook_rules import check_notebooks

    check_notebooks(given.notebooks or sorted((REPOSITORY / "notebooks").glob("*.ipynb")))


def write_tensorboard(given: argparse.Namespace) -> None:
    from ssl_pose.logbook import write_events
    from ssl_pose.profiles import open_profile

    profile = open_profile(given.profile)
    results, out = profile.folder / "results" / profile.config.profile, REPOSITORY / SCRATCH / "tensorboard"
    folders = write_events(results, profile.config, out / given.profile)
    print(f"{len(folders)} runs; look at them with: tensorboard --logdir {os.path.relpath(out / given.profile)}")


def run_worker(given: argparse.Namespace) -> None:
    from ssl_pose.launching import work
    from ssl_pose.training import burn_in, train_run

    work(given.folder, {"burn_in": burn_in, "train_run": train_run})


if __name__ == "__main__":
    sys.exit(main())
