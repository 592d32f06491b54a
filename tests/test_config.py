"""params.yaml: what it says arrives typed and complete, and each wrong key is named in one line."""

import copy
from pathlib import Path

import pytest
import yaml

from ssl_pose.config import ArmConfig, ConfigError, fingerprint, load_config, override, parse_config

PARAMS = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture(scope="module")
def params():
    return yaml.safe_load(PARAMS.read_text())


def changed(params, **overrides):
    """A copy of the raw parameters with `section__key=value` laid over it, unchecked."""
    raw = copy.deepcopy(params)
    for dotted, value in overrides.items():
        *parents, last = dotted.split("__")
        section = raw
        for parent in parents:
            section = section[parent]
        section[last] = value
    return raw


def message_of(raw):
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_default_profile_parses_with_every_value_it_states(params):
    config = load_config(PARAMS)
    for section in ("data", "synthetic", "splits", "model", "training", "evaluation", "method"):
        for key, value in params[section].items():
            stated = tuple(value) if isinstance(value, list) else value
            assert getattr(getattr(config, section), key) == stated, f"{section}.{key}"
    assert config.seeds == tuple(params["seeds"])
    assert list(config.arms) == list(params["arms"])


def test_sizes_are_tuples_and_whole_numbers_become_floats_where_floats_are_meant(params):
    config = parse_config(changed(params, method__consistency_weight=2))
    assert config.data.input_size == tuple(params["data"]["input_size"])
    assert type(config.method.consistency_weight) is float


def test_an_arm_inherits_the_method_and_states_only_what_differs(params):
    arms = {"plain": {}, "refined": {"title": "T&R", "target": "threshold_and_refine"}}
    config = parse_config(changed(params, arms=arms, grid=list(arms), method__confidence_threshold=0.25))
    refined, plain = config.arm("refined"), config.arm("plain")
    assert refined.confidence_threshold == plain.confidence_threshold == 0.25
    assert (refined.thresholds, refined.redraws, plain.thresholds, plain.redraws) == (True, True, False, False)
    assert (refined.title, plain.title) == ("T&R", "plain")
    assert isinstance(plain, ArmConfig)


def test_an_arm_does_not_write_into_the_method_or_the_given_mapping(params):
    before = copy.deepcopy(params)
    config = parse_config(params)
    assert params == before
    assert config.method.framework == params["method"]["framework"]


WRONG = {
    "unknown section": ({"trainning": {}}, "unknown key trainning; allowed: profile, seeds, "),
    "unknown key": ({"training__lr": 0.1}, "unknown key training.lr; allowed: burn_in_steps"),
    "unknown key, deep": ({"views__weak__angle": 3}, "unknown key views.weak.angle; allowed: rotation_deg"),
    "unknown key of an arm": ({"arms__full__views": 3}, "unknown key arms.full.views; allowed: framework"),
    "1e-4": ({"training__learning_rate": "1e-4"}, "training.learning_rate must be a number, got '1e-4'; YAML 1.1"),
    "text for count": ({"training__steps": "300"}, "training.steps must be an integer, got '300'"),
    "share for count": ({"training__steps": 2.5}, "training.steps must be an integer, got 2.5"),
    "bool for count": ({"training__steps": True}, "training.steps must be an integer, got True"),
    "bool for number": ({"method__confidence_threshold": True}, "must be a number, got True"),
    "count for bool": ({"training__compile": 1}, "training.compile must be true or false, got 1"),
    "empty": ({"training__steps": None}, "training.steps must be an integer, got None"),
    "number for text": ({"profile": 3}, "profile must be a text, got 3"),
    "section as number": ({"training": 3}, "training must be a section with keys, got 3"),
    "arms as list": ({"arms": ["full"]}, "arms must be a mapping, got ['full']"),
    "arm as text": ({"arms__full": "maximum"}, "arms.full must be a mapping of options, got 'maximum'"),
    "negative count": ({"training__burn_in_steps": -1}, "training.burn_in_steps must be at least 0, got -1"),
    "no length": ({"training__steps": 0}, "training.steps and training.epochs: one must be 0 and the other not, got 0"),
    "two lengths": ({"training__epochs": 3}, "training.epochs: one must be 0 and the other not, got 350 and 3"),
    "milestones fall": ({"training__schedule": "milestones", "training__milestones": [25, 20]},
                        "training.milestones must rise and be less than the run's length 350, got [25, 20]"),
    "late milestone": ({"training__schedule": "milestones", "training__milestones": [500]}, "length 350, got [500]"),
    "negative views": ({"method__num_views": -1}, "method.num_views must be at least 0, got -1"),
    "views of an arm": ({"arms__full__num_views": -2}, "arms.full.num_views must be at least 0, got -2"),
    "tau above 1": ({"method__confidence_threshold": 1.5}, "confidence_threshold must be in [0.0, 1.0], got 1.5"),
    "tau below 0": ({"method__confidence_threshold": -0.1}, "confidence_threshold must be in [0.0, 1.0], got -0.1"),
    "nan": ({"training__learning_rate": float("nan")}, "training.learning_rate must be at least 0.0, got nan"),
    "nan in a pair": ({"views__weak__box_scale": [float("nan"), 1.0]}, "must be in [0.1, 4.0], got nan"),
    "negative label count": ({"splits__label_count": -1}, "splits.label_count must be at least 0, got -1"),
    "split file of a hash": ({"splits__file": "s.json"}, "splits.file names the split of method file, and of no other"),
    "no split file": ({"splits__method": "file"}, "got method file and file ''"),
    "rendered without labels": ({"data__unlabeled_photos": True}, "data.unlabeled_photos must be false for source"),
    "unknown choice": ({"method__selection": "best"}, "must be one of off, cross, literal, own, got 'best'"),
    "three sides": ({"data__input_size": [64, 48, 3]}, "data.input_size must be a list of 2: an integer, got"),
    "text in a pair": ({"data__input_size": [64, "48"]}, "data.input_size[1] must be an integer, got '48'"),
    "input of a resnet": ({"model__architecture": "resnet18"}, "must be multiples of 32, got 64x48"),
    "odd input": ({"data__input_size": [64, 50]}, "data.input_size must be multiples of 16, got 64x50"),
    "no seeds": ({"seeds": []}, "seeds must be a list of an integer, got []"),
    "a seed twice": ({"seeds": [0, 1, 0]}, "seeds must name each seed once, got [0, 1, 0]"),
    "no grid": ({"grid": []}, "grid must be a list of a text, got []"),
    "grid of an unknown arm": ({"grid": ["full", "best"]}, "grid: 'best' must be named once and stand under arms"),
    "an arm twice in the grid": ({"grid": ["full", "full"]}, "grid: 'full' must be named once"),
    "arm with a path": ({"arms__../x": {}}, "arms: '../x' must be of letters, digits and _"),
    "scales swapped": ({"views__strong__box_scale": [1.4, 0.7]}, "views.strong.box_scale must be [low, high]"),
    "stride of resnet": ({"model__architecture": "resnet18", "data__input_size": [64, 64]},
                         "heatmap_stride must be 4 for resnet18, got 2"),
    "stride of unet": ({"model__heatmap_stride": 3}, "heatmap_stride must be 1, 2 or 4 for unet, got 3"),
    "weights of unet": ({"model__pretrained": "IMAGENET1K_V1"}, "model.pretrained must be none for unet, got IMAGENET"),
    "weights of resnet18": ({"model__architecture": "resnet18", "model__heatmap_stride": 4,
                             "data__input_size": [64, 32], "model__pretrained": "IMAGENET1K_V2"},
                            "must be none or IMAGENET1K_V1 for resnet18, got"),
    "views without ensemble": ({"arms__dual_student__num_views": 2}, "ensemble 'none' takes num_views 0, got 2"),
    "ensemble without views": ({"arms__dual_student__ensemble": "maximum"}, "needs num_views of at least 1"),
    "selection of one view": ({"arms__dual_student__selection": "cross"}, "selection needs framework dual_student"),
    "a title twice": ({"arms__full__title": "Dual-Student"}, "another arm of the grid has the title 'Dual-Student'"),
    "a weight that pairs do not have": ({"arms__dual_student__pairing": "closest",
                                         "arms__dual_student__label_weight": "agreement"},
                                        "pairing 'closest' takes no label_weight 'agreement'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_named_in_one_line(params, name):
    overrides, message = WRONG[name]
    assert message in message_of(changed(params, **overrides))


@pytest.mark.parametrize("dotted", ["seeds", "model.width", "views.multi.shift", "method.num_views", "arms"])
def test_a_missing_key_is_named_with_its_type(params, dotted):
    raw = copy.deepcopy(params)
    *parents, last = dotted.split(".")
    section = raw
    for parent in parents:
        section = section[parent]
    del section[last]
    assert message_of(raw).startswith(f"missing key {dotted} (a")


def test_values_on_the_border_of_their_range_are_allowed(params):
    config = parse_config(changed(params, method__confidence_threshold=1, data__canvas_scale=1.0,
                                  training__burn_in_steps=0, method__num_views=0))
    assert config.method.confidence_threshold == 1.0


def test_a_bare_off_means_the_choice_off(params):
    assert parse_config(changed(params, method__selection=False)).method.selection == "off"


def test_an_unknown_arm_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown arm 'best'; the grid of params\.yaml has: supervised, "):
        load_config(PARAMS).arm("best")


def test_overrides_change_sections_views_and_arms(params):
    config = load_config(PARAMS, {"training.steps": 7, "views.weak.shift": 0.25, "arms.full.num_views": 5,
                                  "arms.dual_student.confidence_threshold": 0.5, "seeds": [4]})
    assert (config.training.steps, config.views.weak.shift, config.seeds) == (7, 0.25, (4,))
    assert (config.arm("full").num_views, config.arm("dual_student").confidence_threshold) == (5, 0.5)
    assert config.method.confidence_threshold == params["method"]["confidence_threshold"]


def test_an_override_leaves_the_given_mapping_alone(params):
    before = copy.deepcopy(params)
    assert override(params, {"training.steps": 7})["training"]["steps"] == 7
    assert params == before


@pytest.mark.parametrize("dotted", ["training.lr", "trainning.steps", "seeds.0", "arms.best.num_views", "lr"])
def test_an_override_of_an_unknown_key_is_refused(dotted):
    with pytest.raises(ConfigError, match=f"override of unknown key '{dotted}'"):
        load_config(PARAMS, {dotted: 3})


def test_an_override_is_checked_like_the_file():
    with pytest.raises(ConfigError, match=r"training\.steps must be at least 0, got -1"):
        load_config(PARAMS, {"training.steps": -1})
    with pytest.raises(ConfigError, match=r"unknown key arms\.full\.views"):
        load_config(PARAMS, {"arms.full.views": 1})


@pytest.mark.parametrize(("text", "message"), [
    ("training: [1,\n", "is no valid YAML"),
    ("a: b: c\n", "is no valid YAML"),
    ("\xff\xfe", "is no valid YAML"),
    ("", "holds no sections"),
    ("- 1\n- 2\n", "holds no sections"),
])
def test_a_file_that_is_no_parameters_file_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "params.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "params.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "params.yaml", tmp_path):
        with pytest.raises(ConfigError, match="no parameters file"):
            load_config(path)


def test_one_e_minus_four_in_a_file_is_refused_and_its_long_form_read(tmp_path):
    text = PARAMS.read_text()
    line = next(line for line in text.splitlines() if line.strip().startswith("learning_rate:"))
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(line, "  learning_rate: 1e-4"))
    with pytest.raises(ConfigError, match=r"write 1\.0e-4"):
        load_config(path)
    path.write_text(text.replace(line, "  learning_rate: 1.0e-4"))
    assert load_config(path).training.learning_rate == 1e-4


def test_the_fingerprint_follows_values_and_not_the_order_of_keys(params):
    config = parse_config(params)
    again = parse_config({key: params[key] for key in reversed(list(params))})
    assert fingerprint(config.training) == fingerprint(again.training)
    assert fingerprint({"a": 1, "b": (2, 3)}) == fingerprint({"b": [2, 3], "a": 1})
    other = parse_config(changed(params, training__steps=params["training"]["steps"] + 1))
    assert fingerprint(config.training) != fingerprint(other.training)
    assert len(fingerprint(config, "a", 3)) == 16
