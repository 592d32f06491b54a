"""Every number of a profile: frozen dataclasses, one per section of params.yaml.

A key that is unknown, missing, of the wrong type or out of range raises `ConfigError` with the key's full
name and what is allowed. YAML is read by the 1.1 rules that papermill uses too, so `1e-4` is a string here
and is refused: write `1.0e-4`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
import reprlib
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

GPU_SHARE = "SSL_POSE_GPU_SHARE"  # environment, not params: of a GPU's memory what this process may take
MAY_BE_INFINITE = ("uncertainty_margin",)  # then no joint is decided: plain dual students
SHORT = reprlib.Repr()
SHORT.maxlevel = 2  # of nesting
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 60  # characters


@dataclass(frozen=True)
class Framework:
    """What a run of a framework needs to know beside its step, which stands under the same name in frameworks.STEPS."""

    num_students: int = 1
    uses_pool: bool = True  # whether it learns from unlabelled persons
    label_sources: tuple[str, ...] = ("student", "ema")  # what `label_source` may be


FRAMEWORKS = {
    "supervised": Framework(uses_pool=False, label_sources=("student",)),
    "consistency": Framework(label_sources=("student",)),
    "teacher_student": Framework(label_sources=("ema", "frozen")),
    "dual_student": Framework(num_students=2),
}


class ConfigError(ValueError):
    """A line for the user: which key is wrong, and what would be right."""


def bounded(low: float | None = None, high: float | None = None):
    """A field whose value (each value, for a pair) must lie in [low, high]; None leaves that side open."""
    return field(metadata={"low": low, "high": high})


@dataclass(frozen=True)
class DataConfig:
    source: Literal["synthetic", "coco"]
    input_size: tuple[int, int] = bounded(16)  # (height, width) of the network's input, px
    canvas_scale: float = bounded(1.0, 4.0)  # side of the stored canvas over the input's
    box_padding: float = bounded(1.0, 3.0)  # enlargement of a person's box before cropping
    max_train_persons: int = bounded(0)  # 0: all
    max_val_persons: int = bounded(0)  # 0: all
    num_workers: int = bounded(1)  # processes that decode and pack photos
    skip_broken_photos: bool  # leave out photos that cannot be read, each named; false: they are an error
    unlabeled_photos: bool  # also the persons detected in unlabeled2017, who have no labels
    detections: str  # of them: COCO results JSON of boxes, relative to the COCO directory
    detection_score: float = bounded(0.0, 1.0)  # least score of such a box


@dataclass(frozen=True)
class SyntheticConfig:
    num_train_photos: int = bounded(2)
    num_val_photos: int = bounded(1)
    photo_size: tuple[int, int] = bounded(64)  # (height, width), px
    persons_per_photo: float = bounded(1.0, 6.0)  # mean
    seed: int = bounded(0)


@dataclass(frozen=True)
class SplitsConfig:
    method: Literal["hash", "first", "file"]
    file: str  # of method file: JSON with annotation_ids or image_ids; {seed} stands for the seed
    unit: Literal["image", "person"]
    label_count: int = bounded(0)  # labelled units (images, or persons); 0: all that are annotated
    nested_counts: tuple[int, ...] = bounded(1)  # the counts whose nesting the splits notebook proves
    exclude_labeled: bool  # labelled persons are left out of the unlabelled pool


@dataclass(frozen=True)
class ModelConfig:
    architecture: Literal["unet", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "hrnet_w32",
                          "hrnet_w48"]
    width: int = bounded(4)  # channels of the first block (unet), of a deconvolution (resnet)
    heatmap_stride: int = bounded(1, 8)  # input px per heatmap cell
    heatmap_sigma: float = bounded(0.1)  # of the target Gaussian, cells
    heatmap_alignment: Literal["centre", "corner"]
    pretrained: Literal["none", "IMAGENET1K_V1", "IMAGENET1K_V2", "ms_in1k"]  # torchvision's names, timm's (hrnet)


@dataclass(frozen=True)
class ViewConfig:
    """How one family of views is drawn; the numbers are widths of distributions, see augment.py."""

    rotation_deg: float = bounded(0.0, 180.0)  # standard deviation; draws are clipped at twice this
    rotation_probability: float = bounded(0.0, 1.0)
    box_scale: tuple[float, float] = bounded(0.1, 4.0)  # range of the *box* scale; the zoom is its inverse
    shift: float = bounded(0.0, 0.5)  # largest shift, as a share of each side
    flip_probability: float = bounded(0.0, 1.0)
    brightness: float = bounded(0.0, 1.0)
    contrast: float = bounded(0.0, 1.0)
    saturation: float = bounded(0.0, 1.0)
    num_cutouts: int = bounded(0)  # grey boxes at random places
    cutout_size: float = bounded(0.0, 1.0)  # largest side of such a box, as a share of the input's shorter side

    def scaled(self, strength: float) -> ViewConfig:
        """The family with every width of geometry and colour multiplied; probabilities and cutouts stay."""
        wider = {name: strength * getattr(self, name)
                 for name in ("rotation_deg", "shift", "brightness", "contrast", "saturation")}
        box_scale = tuple(max(0.1, 1 + strength * (bound - 1)) for bound in self.box_scale)
        return replace(self, box_scale=box_scale, **wider)


@dataclass(frozen=True)
class ViewsConfig:
    labeled: ViewConfig
    weak: ViewConfig
    multi: ViewConfig
    strong: ViewConfig


@dataclass(frozen=True)
class MethodConfig:
    """Algorithm 1 and its named options; an arm overrides any of them (docs/method.md says what each does)."""

    framework: Literal[*FRAMEWORKS]
    labels: Literal["few", "all"]
    label_count: int = bounded(0)  # labelled units of this arm, with a burn-in of its own; 0: those of the split
    burn_in: bool  # false: starts from initial weights
    relative_steps: float = bounded(0.01, 100.0)  # steps of this arm over training.steps
    labeled_views: Literal["labeled", "strong", "both"]  # the family of views in which labelled persons are seen
    weak_view: Literal["augmented", "reference"]  # reference: the un-augmented crop
    num_views: int = bounded(0)  # the paper's K
    ensemble: Literal["none", "average", "maximum"]
    target: Literal["soft", "rescaled", "thresholded", "refined", "threshold_and_refine"]  # what P becomes
    confidence_threshold: float = bounded(0.0, 1.0)  # the paper's tau
    below_threshold: Literal["drop", "zero"]
    selection: Literal["off", "cross", "literal", "own"]
    uncertainty_margin: float = bounded(0.0)  # the paper's Delta
    uncertainty_guard: bool  # a joint under tau counts as wholly uncertain
    view_fill: Literal["mask", "zero"]  # cells outside a view: left out of the ensemble, or zero
    label_source: Literal["student", "ema", "frozen"]  # which network speaks: it, its EMA copy, one trained before
    label_weight: Literal["equal", "confidence", "certainty", "agreement"]  # of a joint in the loss
    pairing: Literal["off", "closest"]  # closest: mean of the two nearest peaks among students and EMA copies
    strong_paths: tuple[Literal["plain", "joint_cutout", "cut_occlude", "cut_occlude_cutout", "randaugment"], ...]
    consistency_weight: float = bounded(0.0)  # lambda
    ema_horizon: float = bounded(0.0)  # share of the run; the decay is exp(-1 / (horizon * steps))
    pseudo_label_batch_norm: Literal["eval", "batch"]

    @property
    def thresholds(self) -> bool:
        """Whether a joint under the threshold is no target."""
        return self.target in ("thresholded", "threshold_and_refine")

    @property
    def redraws(self) -> bool:
        """Whether a pseudo-heatmap becomes a clean Gaussian at its peak."""
        return self.target in ("refined", "threshold_and_refine")

    @property
    def uses_ema(self) -> bool:
        """Whether labels come from networks that follow the students."""
        return self.label_source == "ema" or self.pairing == "closest"

    @property
    def num_students(self) -> int:
        return FRAMEWORKS[self.framework].num_students

    @property
    def uses_pool(self) -> bool:
        """Whether the arm learns from unlabelled persons."""
        return FRAMEWORKS[self.framework].uses_pool

    @property
    def label_networks(self) -> tuple[int, ...]:
        """Numbers of the networks that make the pseudo-labels, among those that a run leaves.

        One student leaves itself and then its teacher; two leave themselves or, where these teach, their copies.
        """
        if self.num_students > 1:
            return tuple(range(self.num_students))
        return (0,) if self.label_source == "student" else (1,)

    @property
    def reported_networks(self) -> tuple[int, ...]:
        """Numbers of the networks whose scores are a run's: those that make labels, but for a frozen teacher."""
        return (0,) if self.label_source == "frozen" else self.label_networks


@dataclass(frozen=True)
class ArmConfig(MethodConfig):
    """One row of the tables; what stands here shapes no run."""

    title: str = ""
    group: str = ""  # the ablation that the arm belongs to; empty: none
    baseline: str = ""  # the arm of the grid that the ablation compares it with

    @property
    def method(self) -> dict[str, Any]:
        """What shapes a run of this arm."""
        return {option.name: getattr(self, option.name) for option in fields(MethodConfig)}


@dataclass(frozen=True)
class TrainingConfig:
    burn_in_steps: int = bounded(0)
    steps: int = bounded(0)  # length of a run, or 0: `epochs` says it
    epochs: int = bounded(0)  # length of a run in passes over the unlabelled pool, or 0: `steps` says it
    warmup_steps: int = bounded(0)  # of a run, from 0 to learning_rate: Adam starts afresh after burn-in
    labeled_batch: int = bounded(1)
    unlabeled_batch: int = bounded(1)
    learning_rate: float = bounded(0.0)
    schedule: Literal["cosine", "milestones"]
    final_learning_rate: float = bounded(0.0)  # share of learning_rate at the end of the cosine
    milestones: tuple[int, ...] = bounded(1)  # times a factor at the end of these epochs (steps, where epochs is 0)
    milestone_factor: float = bounded(0.0, 1.0)
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    channels_last: bool
    crops_on_device: Literal["auto", "always", "never"]  # 'auto': if half of the device's free memory holds them
    compile: bool
    num_threads: int = bounded(1)  # per process, on a CPU
    num_processes: int = bounded(1)  # that share each batch of one run, one per GPU
    log_every: int = bounded(1)  # steps
    checkpoint_every: int = bounded(1)  # steps
    on_collapse: Literal["warn", "stop"]  # when the networks fall to background

    def run_steps(self, pool_size: int) -> int:
        """Steps of a run whose unlabelled pool has `pool_size` persons; the last pass may end inside a batch."""
        return self.steps or self._epochs_to_steps(self.epochs, pool_size)

    def milestone_steps(self, pool_size: int) -> tuple[int, ...]:
        """The steps after which the rate falls."""
        if self.steps:
            return self.milestones
        return tuple(self._epochs_to_steps(epoch, pool_size) for epoch in self.milestones)

    def _epochs_to_steps(self, epochs: int, pool_size: int) -> int:
        return math.ceil(epochs * pool_size / self.unlabeled_batch)


@dataclass(frozen=True)
class EvaluationConfig:
    batch_size: int = bounded(1)
    decoder: Literal["argmax", "quarter", "dark"]
    flip_test: bool
    pck_thresholds: tuple[float, ...] = bounded(0.0)
    pck_reference: Literal["torso", "box"]
    num_pseudo_persons: int = bounded(1)  # persons of the pool on which pseudo-heatmaps are scored
    num_views: int = bounded(1)  # extra views with which pseudo-heatmaps are scored (Table 1)
    view_strengths: tuple[float, ...] = bounded(0.0, 5.0)  # by which the widths of the extra views are multiplied
    num_examples: int = bounded(1)  # best and worst persons whose crops and heatmaps are kept for figures


@dataclass(frozen=True)
class Config:
    profile: str
    seeds: tuple[int, ...] = bounded(0)
    grid: tuple[str, ...]  # the arms that are run, in the order of the tables
    data: DataConfig
    synthetic: SyntheticConfig
    splits: SplitsConfig
    model: ModelConfig
    views: ViewsConfig
    method: MethodConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    arms: dict[str, ArmConfig]  # those of the grid, in its order
    predictions: dict[str, float]  # of the phase diagram: cell -> probability that the claim holds there

    def arm(self, name: str) -> ArmConfig:
        """The method of one arm: the `method` section with the arm's own lines laid over it."""
        if name not in self.arms:
            raise ConfigError(f"unknown arm {name!r}; the grid of params.yaml has: {', '.join(self.arms)}")
        return self.arms[name]


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> Config:
    """The profile in `path`, with dotted `overrides` such as {"training.steps": 10} laid over it."""
    path = Path(path)
    try:
        raw = parse_yaml(path.read_text(), str(path))
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"no parameters file {path}; run from a folder that holds params.yaml") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no sections; expected a mapping such as `training:`")
    return parse_config(override(raw, overrides or {}))


def parse_yaml(text: str, name: str) -> Any:
    """The value that `text` says by YAML 1.1; `name` is what a `ConfigError` calls the text."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date such as 2026-13-01 is a ValueError
        raise ConfigError(f"{name} is no valid YAML: {' '.join(str(error).split())}") from None


def brief(value: Any) -> str:
    """`value` as an error message shows it: on one line, and short whatever it is."""
    return SHORT.repr(value)


def override(raw: dict, overrides: dict[str, Any]) -> dict:
    """A copy of `raw` in which each dotted key has its new value; the key must exist."""
    raw = copy.deepcopy(raw)
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        section = raw
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        in_arm = len(parents) == 2 and parents[0] == "arms"  # an arm states only what differs
        if not isinstance(section, dict) or not (last in section or in_arm):
            raise ConfigError(f"override of unknown key {dotted!r}; params.yaml has no such key")
        section[last] = value
    return raw


def parse_config(raw: dict) -> Config:
    """`Config` from the mapping of a params.yaml; raises `ConfigError` at the first key that is wrong."""
    raw = dict(raw)
    method, arms = raw.get("method"), raw.get("arms")
    if isinstance(method, dict) and isinstance(arms, dict):
        for name, body in arms.items():
            if not isinstance(body, dict):
                raise ConfigError(f"arms.{name} must be a mapping of options, got {brief(body)}")
        raw["arms"] = {name: {"title": name, **method, **body} for name, body in arms.items()}
    config = _parse(Config, raw, "")
    _check_together(config)
    return replace(config, arms={name: config.arms[name] for name in config.grid})


def fingerprint(*parts: Any) -> str:
    """Hash (16 hex digits) of dataclasses, mappings and plain values, the same on every machine."""
    plain = [asdict(part) if is_dataclass(part) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _check_together(config: Config) -> None:
    """Refuses values that are each allowed but do not go together, and names that cannot name a folder."""
    if not re.fullmatch(r"[\w-]{1,60}", config.profile):
        raise ConfigError(f"profile: {brief(config.profile)} must be of letters, digits, _ and -, "
                          "since a folder is named after it")
    for name in config.grid:
        if name not in config.arms or config.grid.count(name) > 1:
            raise ConfigError(f"grid: {name!r} must be named once and stand under arms: {', '.join(config.arms)}")
    for cell, probability in config.predictions.items():
        if not 0 <= probability <= 1:
            raise ConfigError(f"predictions: {cell!r} must be a probability in [0, 1], got {probability}")
    _check_model(config)
    _check_length(config.training)
    if config.data.source == "synthetic" and config.data.unlabeled_photos:
        raise ConfigError("data.unlabeled_photos must be false for source synthetic, which labels all its photos")
    if (config.splits.method == "file") != bool(config.splits.file):
        raise ConfigError("splits.file names the split of method file, and of no other; "
                          f"got method {config.splits.method} and file {config.splits.file!r}")
    for section, bounds in (("weak", config.views.weak), ("multi", config.views.multi),
                            ("strong", config.views.strong), ("labeled", config.views.labeled)):
        if bounds.box_scale[0] > bounds.box_scale[1]:
            raise ConfigError(f"views.{section}.box_scale must be [low, high], got {list(bounds.box_scale)}")
    for name in ("labeled_batch", "unlabeled_batch"):
        batch, processes = getattr(config.training, name), config.training.num_processes
        if batch % processes:
            raise ConfigError(f"training.{name} must be a multiple of num_processes, {processes}, got {batch}")
    if len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(f"seeds must name each seed once, got {list(config.seeds)}")
    _check_arms(config)


def _check_arms(config: Config) -> None:
    """Refuses arms whose names cannot name a folder, that share a title, or that contradict themselves."""
    titles = [config.arms[name].title for name in config.grid]
    for name, title in zip(config.grid, titles, strict=True):
        if titles.count(title) > 1:
            raise ConfigError(f"arms.{name}: another arm of the grid has the title {brief(title)} too, "
                              "and tables go by titles; give it one of its own")
    for name, arm in config.arms.items():
        if not name.isidentifier():
            raise ConfigError(f"arms: {name!r} must be of letters, digits and _: folders are named after it")
        if bool(arm.group) != bool(arm.baseline) or (name in config.grid and arm.baseline not in (*config.grid, "")):
            raise ConfigError(f"arms.{name}: group and baseline go together, and the baseline stands in the grid; "
                              f"got group {brief(arm.group)}, baseline {brief(arm.baseline)}")
        _check_arm(f"arms.{name}", arm)


def _check_arm(name: str, arm: ArmConfig) -> None:
    """Refuses options of one arm that contradict each other."""
    if arm.ensemble == "none" and arm.num_views:
        raise ConfigError(f"{name}: ensemble 'none' takes num_views 0, got {arm.num_views}")
    if arm.ensemble != "none" and not arm.num_views:
        raise ConfigError(f"{name}: ensemble {arm.ensemble!r} needs num_views of at least 1")
    dual = arm.framework == "dual_student"
    if arm.selection in ("cross", "literal") and not (dual and arm.num_views):
        raise ConfigError(f"{name}: selection needs framework dual_student and num_views >= 1")
    if arm.selection == "own" and not dual:
        raise ConfigError(f"{name}: selection 'own' needs framework dual_student")
    if arm.label_weight == "certainty" and not arm.num_views:
        raise ConfigError(f"{name}: label_weight 'certainty' needs num_views >= 1: one view has no deviation")
    if (arm.label_weight == "agreement" or arm.pairing != "off") and not dual:
        raise ConfigError(f"{name}: label_weight 'agreement' and pairing 'closest' need framework dual_student")
    if arm.pairing != "off" and arm.label_weight == "agreement":
        raise ConfigError(f"{name}: pairing 'closest' takes no label_weight 'agreement': both students learn the pair")
    if arm.pairing != "off" and (arm.selection != "off" or arm.label_source != "student"):
        raise ConfigError(f"{name}: pairing 'closest' takes selection 'off' and label_source 'student'")
    allowed = FRAMEWORKS[arm.framework].label_sources
    if arm.label_source not in allowed:
        raise ConfigError(f"{name}: label_source of {arm.framework} must be one of {', '.join(allowed)}, "
                          f"got {arm.label_source!r}")


PRETRAINED = {"unet": (), "hrnet_w32": ("ms_in1k",), "hrnet_w48": ("ms_in1k",),
              "resnet18": ("IMAGENET1K_V1",), "resnet34": ("IMAGENET1K_V1",)}  # others have both of torchvision's


def _check_model(config: Config) -> None:
    """The network's input, stride and published weights fit its architecture."""
    name, stride, pretrained = config.model.architecture, config.model.heatmap_stride, config.model.pretrained
    height, width = config.data.input_size
    multiple = 16 if name == "unet" else 32  # px per cell of the coarsest level
    if height % multiple or width % multiple:
        raise ConfigError(f"data.input_size must be multiples of {multiple}, got {height}x{width}")
    if name != "unet" and stride != 4:
        raise ConfigError(f"model.heatmap_stride must be 4 for {name}, got {stride}")
    if name == "unet" and stride not in (1, 2, 4):
        raise ConfigError(f"model.heatmap_stride must be 1, 2 or 4 for unet, got {stride}")
    known = ("none", *PRETRAINED.get(name, ("IMAGENET1K_V1", "IMAGENET1K_V2")))
    if pretrained not in known:
        raise ConfigError(f"model.pretrained must be {' or '.join(known)} for {name}, got {pretrained}")


def _check_length(training: TrainingConfig) -> None:
    """A run's length is said once, and its milestones lie in it, in order."""
    if bool(training.steps) == bool(training.epochs):
        raise ConfigError(f"training.steps and training.epochs: one must be 0 and the other not, got {training.steps} "
                          f"and {training.epochs}")
    length, milestones = training.steps or training.epochs, training.milestones
    if training.schedule == "milestones" and (sorted(set(milestones)) != list(milestones) or milestones[-1] >= length):
        raise ConfigError(f"training.milestones must rise and be less than the run's length {length}, "
                          f"got {list(milestones)}")


def _parse(cls: type, raw: Any, name: str) -> Any:
    """An instance of dataclass `cls` from the mapping `raw`; `name` is the dotted key of it."""
    prefix = f"{name}." if name else ""
    if not isinstance(raw, dict):
        raise ConfigError(f"{name or 'params.yaml'} must be a section with keys, got {brief(raw)}")
    known = {f.name: f for f in fields(cls)}
    for key in raw:
        if key not in known:
            raise ConfigError(f"unknown key {prefix}{_one_line(key)}; allowed: {', '.join(known)}")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, spec in known.items():
        if key not in raw:
            if spec.default is MISSING:
                raise ConfigError(f"missing key {prefix}{key} ({_describe(hints[key])})")
            continue
        values[key] = _convert(hints[key], raw[key], f"{prefix}{key}")
        _check_range(values[key], spec.metadata, f"{prefix}{key}")
    return cls(**values)


def _convert(hint: Any, value: Any, name: str) -> Any:
    """`value` as the annotated type, or a `ConfigError` that says what was expected."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint):
        return _parse(hint, value, name)
    if origin is Literal:
        if value is False and "off" in args:  # YAML 1.1 reads a bare `off` as false
            value = "off"
        if value in args and isinstance(value, str):
            return value
    elif origin is dict and isinstance(value, dict):
        return {str(key): _convert(args[1], item, f"{name}.{key}") for key, item in value.items()}
    elif origin is tuple and isinstance(value, list | tuple):
        items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(items) == len(value) and value:
            pairs = enumerate(zip(items, value, strict=True))
            return tuple(_convert(item, part, f"{name}[{i}]") for i, (item, part) in pairs)
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    hint_for_number = ""
    if hint in (int, float) and isinstance(value, str):
        hint_for_number = "; YAML 1.1 reads 1e-4 as text, write 1.0e-4"
    raise ConfigError(f"{name} must be {_describe(hint)}, got {brief(value)}{hint_for_number}")


def _check_range(value: Any, limits: typing.Mapping, name: str) -> None:
    low, high = limits.get("low"), limits.get("high")
    for item in value if isinstance(value, tuple) else (value,):
        below, above = low is not None and item < low, high is not None and item > high
        if below or above or item != item:
            allowed = f"at least {low}" if high is None else f"in [{low}, {high}]"
            raise ConfigError(f"{name} must be {allowed}, got {item}")
        if item in (math.inf, -math.inf) and name.rpartition(".")[2] not in MAY_BE_INFINITE:
            raise ConfigError(f"{name} must be finite, got {item}")


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is tuple:
        many = args[-1] is Ellipsis
        return f"a list of {_describe(args[0])}" if many else f"a list of {len(args)}: {_describe(args[0])}"
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false", dict: "a mapping"}
    return names.get(origin or hint, "a section")


def _one_line(key: Any) -> str:
    return key if isinstance(key, str) and key.isprintable() and len(key) < 60 else brief(key)
