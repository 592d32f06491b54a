"""The README says what is true of the repository."""

import re
from pathlib import Path

import pytest
import yaml

from ssl_pose.config import parse_config
from ssl_pose.pipeline import results_folder
from ssl_pose.profiles import open_profile
from ssl_pose.readme import BLOCKS, markers

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(("kind", "name"), [("results", "longer"), ("claims", "evidence")])
def test_its_numbers_come_from_the_results(kind: str, name: str):
    begin, end = markers(kind, name)
    profile = open_profile(name)
    expected = BLOCKS[kind](results_folder(profile), profile.config)
    assert README.split(begin)[1].split(end)[0].strip() == expected.strip()


def test_its_worked_example_is_a_valid_arm():
    example = yaml.safe_load(re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1])
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["arms"] |= example["arms"]
    raw["grid"] += example["grid"]
    config = parse_config(raw)
    assert config.arm("dual_student_strict").confidence_threshold == 0.6


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_its_links_lead_somewhere(path: str):
    assert (ROOT / path).exists()


def test_it_names_every_profile():
    profiles = {path.parent.name for path in ROOT.glob("profiles/*/dvc.yaml")}
    table = README.split("\n## Profiles\n")[1].split("\n## ")[0]
    first_cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    assert profiles | {"default"} == set(re.findall(r"`(\w+)`", " ".join(first_cells)))
