"""The command line: python -m ssl_pose <command>. dvc.yaml, the Makefile and torchrun call it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from ssl_pose.files import remedy
from ssl_pose.workspace import PIPELINE, REPOSITORY, SCRATCH


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; an error of ours becomes one line on stderr and exit status 1."""
    given = build_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped run stops its stages, as Ctrl-C does
    try:
        given.command(given)
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

    repro = commands.add_parser("repro", help="bring every result of a profile up to date")
    repro.set_defaults(command=run_repro)
    repro.add_argument("--data", default="", help="COCO directory, for profiles with data.source coco")
    report = commands.add_parser("report", help="delete tables, figures and report; rebuild them from git")
    report.set_defaults(command=run_report)
    for command in (repro, report):
        command.add_argument("--profile", default="default", help="default, or a folder of profiles/")
        command.add_argument("--jobs", type=int, default=0, help="stages side by side (0: as many as fit)")

    notebook = commands.add_parser("notebook", help="execute one notebook")
    notebook.set_defaults(command=run_one_notebook)
    notebook.add_argument("name", help="file name in notebooks/, without .ipynb")
    notebook.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    notebook.add_argument("-o", "--output", type=Path, help="executed notebook (default: in scratch/)")
    notebook.add_argument("--pipeline", action="store_true", help="use the params.yaml of the current folder")

    code = commands.add_parser("code", help="write work/code/<notebook>.py, which the stages depend on")
    code.set_defaults(command=write_code)
    source = commands.add_parser("source", help="write work/source.json, the content hash of the photos")
    source.set_defaults(command=write_source)
    cells = commands.add_parser("cells", help="train and evaluate the grid without notebooks and DVC")
    cells.set_defaults(command=run_grid)
    cells.add_argument("--profile", default="default", help="default, or a folder of profiles/")
    cells.add_argument("--jobs", type=int, default=0, help="cells side by side (0: as many as fit)")
    cells.add_argument("--arm", action="append", default=[], help="only this arm (may be given several times)")
    cells.add_argument("--evaluate-only", action="store_true", help="leave cells that are not trained alone")
    plan = commands.add_parser("plan", help="what a profile will cost: cells, steps, images, hours, memory, disk")
    plan.set_defaults(command=print_plan)
    plan.add_argument("--profile", default="default", help="default, or a folder of profiles/")
    plan.add_argument("--data", default="", help="COCO directory, for profiles with data.source coco")
    plan.add_argument("--jobs", type=int, default=0, help="cells side by side (0: as many as fit)")
    add_coco_commands(commands)
    sweep = commands.add_parser("sweep", help="run the missing cells of the grid on a Ray cluster")
    sweep.set_defaults(command=run_sweep)
    sweep.add_argument("--profile", default="default", help="default, or a folder of profiles/")
    sweep.add_argument("--data", default="", help="COCO directory, for profiles with data.source coco")
    sweep.add_argument("--address", default="", help="of the cluster, host:port (default: this machine alone)")
    sweep.add_argument("--gpus", type=float, default=0.0, help="share of a GPU that a cell takes (0: a whole one)")
    add_everyday_commands(commands)
    worker = commands.add_parser("worker", help="one process of a run on several; torchrun starts it")
    worker.set_defaults(command=run_worker)
    worker.add_argument("folder", type=Path, help="where the job lies")
    return parser


def add_everyday_commands(commands: argparse._SubParsersAction) -> None:
    """Commands around an experiment: a new arm, the rules of notebooks, curves."""
    arm = commands.add_parser("new-arm", help="add an arm to a profile's params.yaml: a new row of the tables")
    arm.set_defaults(command=add_new_arm)
    arm.add_argument("name", help="of letters, digits and _")
    arm.add_argument("--profile", default="smoke", help="default, or a folder of profiles/")
    arm.add_argument("--base", default="dual_student_refine", help="the arm whose lines it starts from")
    arm.add_argument("--title", default="", help="as tables show it (default: what differs)")
    arm.add_argument("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="a key of `method`")
    rules = commands.add_parser("lint", help="check the rules of notebooks")
    rules.set_defaults(command=lint_notebooks)
    rules.add_argument("notebooks", type=Path, nargs="*", help="(default: all of notebooks/)")
    events = commands.add_parser("tensorboard", help="write the runs' logs as TensorBoard's event files")
    events.set_defaults(command=write_tensorboard)
    events.add_argument("--profile", default="default", help="default, or a folder of profiles/")


def add_coco_commands(commands: argparse._SubParsersAction) -> None:
    """Commands beside the pipeline: photos in, networks in and out, poses and scores out."""
    coco = commands.add_parser("coco", help="download COCO 2017 into a folder, or complete what is there")
    coco.set_defaults(command=fetch_photos)
    coco.add_argument("directory", type=Path, help="the COCO directory")
    coco.add_argument("--unlabeled", action="store_true", help="also unlabeled2017 (20 GB), for COCO-Full")
    coco.add_argument("--address", default="", help="another server with the same layout")
    own = commands.add_parser("own-data", help="make a COCO directory of your photos and labels for some of them")
    own.set_defaults(command=build_own_data)
    own.add_argument("photos", type=Path, help="folder of photos")
    own.add_argument("labels", type=Path, help="COCO-style JSON with keypoints of the persons in some of them")
    own.add_argument("output", type=Path, help="the COCO directory to make")
    own.add_argument("--boxes", type=Path, help="who is where in the other photos: JSON, boxes by file name")
    own.add_argument("--val-share", type=float, default=0.2, help="share of labelled photos held back (0.2)")
    predict = commands.add_parser("predict", help="draw poses on photos")
    predict.set_defaults(command=predict_photos)
    predict.add_argument("photos", type=Path, nargs="+", help="photos, or folders of them")
    predict.add_argument("--boxes", type=Path, help="who is where: JSON, boxes by file name (else: one person a photo)")
    predict.add_argument("-o", "--output", type=Path, default=Path("poses"), help="folder of the pictures (poses/)")
    export = commands.add_parser("export", help="write a run's weights and model card to a folder")
    export.set_defaults(command=export_model)
    export.add_argument("output", type=Path, help="the folder")
    predict.add_argument("--model", type=Path, help="exported folder or published checkpoint, instead of a run")
    labels = commands.add_parser("pseudo-labels", help="write a run's pseudo-labels of its pool as a COCO file")
    labels.set_defaults(command=export_pseudo_labels)
    labels.add_argument("output", type=Path, help="the JSON file")
    for command in (predict, export, labels):
        command.add_argument("--profile", default="default", help="default, or a folder of profiles/")
        command.add_argument("--arm", default="full", help="a name under `arms` in params.yaml")
        command.add_argument("--seed", type=int, default=0, help="the replicate")
    score = commands.add_parser("score", help="AP of an exported model or a published checkpoint on a COCO directory")
    score.set_defaults(command=score_model)
    score.add_argument("model", type=Path, help="exported folder or published checkpoint")
    score.add_argument("--data", type=Path, required=True, help="COCO directory")
    score.add_argument("--split", default="val2017")
    score.add_argument("--boxes", type=Path, help="a detector's boxes, COCO results JSON (else: annotated boxes)")
    score.add_argument("--min-score", type=float, default=0.0, help="least score of such a box")
    score.add_argument("--flip", action="store_true", help="average with the mirror image")
    score.add_argument("--decoder", default="quarter", choices=["argmax", "quarter", "dark"])
    score.add_argument("--input-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of a published checkpoint")
    score.add_argument("--batch-size", type=int, default=64)
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

    run_profile(given.profile, given.jobs, given.arm, given.evaluate_only)


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
    from ssl_pose.download import OFFICIAL, count_persons, fetch_coco, official_archives

    splits = (*SPLITS, UNLABELED) if given.unlabeled else SPLITS
    fetch_coco(given.directory, official_archives(splits), given.address or OFFICIAL)
    for split, counts in count_persons(given.directory).items():
        print(f"{split}: {json.dumps(counts)}")


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
