"""The numbers of the first 20 steps are those that were written down: an edit that should not move them did not."""

import json

import numpy as np
import pytest
import torch

from tests.golden_trace import ARMS, PATH, STEPS, trace

GOLDEN = json.loads(PATH.read_text())


@pytest.mark.parametrize("arm", ARMS)
def test_twenty_steps_repeat_the_golden_trace(arm):
    found = trace(arm)
    assert found.keys() == GOLDEN[arm].keys()
    for column, values in found.items():
        assert len(values) == STEPS
        np.testing.assert_allclose(values, GOLDEN[arm][column], rtol=1e-4, atol=1e-6, err_msg=column)


@pytest.mark.soak
@pytest.mark.parametrize("arm", ["full", "teacher_student_refine"])  # students that label, and an EMA teacher that does
def test_compiled_networks_take_the_same_steps(arm, monkeypatch):
    compiled, real = [], torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: compiled.append(network) or real(network))
    found = trace(arm, compile=True)
    assert len(compiled) == 2  # both students, or the student and its teacher
    assert all(network._compiled_call_impl is not None for network in compiled)
    np.testing.assert_allclose(found["loss"], GOLDEN[arm]["loss"], rtol=1e-3)


def test_the_trace_sees_what_it_guards():
    """Joints are kept and dropped, losses of both kinds count, and the arms differ."""
    for arm in ARMS:
        assert sum(value > 0 for value in GOLDEN[arm]["consistency_loss"]) > STEPS / 2
        assert GOLDEN[arm]["loss"] != GOLDEN[ARMS[0] if arm != ARMS[0] else ARMS[1]]["loss"]
    assert 0 < min(GOLDEN["full"]["kept"]) < max(GOLDEN["full"]["kept"]) < 1
