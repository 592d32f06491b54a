"""The training loop: optimises, keeps its state for an exact resume, logs, and says when training diverges.

A loss or a weight that is infinite or NaN stops the run. Networks that fall to background, the trivial solution
of learning from oneself, are a finding: the record says so and the run goes on, unless `training.on_collapse`
is `stop`. Either way the last state from before lies in the run's state folder. Peaks far above those of any true
heatmap are a finding too.

States are written every `checkpoint_every` steps and on SIGTERM; a kill -9 loses the steps since the last of them.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_pose.collapse import describe_collapse
from ssl_pose.config import TrainingConfig
from ssl_pose.distributed import ALONE, Processes, stop_requested
from ssl_pose.files import write_bytes
from ssl_pose.frameworks import Losses
from ssl_pose.schedules import Schedule


class TrainingError(ValueError):
    """A line for the user: which run stopped, at which step, and what to do."""


class Meter:
    """Sums of what steps report, kept on the device; reading them waits for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.finite: Tensor | None = None  # false from the first loss on that is infinite or NaN

    def add(self, losses: Losses) -> None:
        finite = losses["loss"].detach().isfinite()
        self.finite = finite if self.finite is None else self.finite & finite
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.count += 1

    def read(self, processes: Processes) -> dict[str, float]:
        """Means since the last reading, over all processes."""
        sums = processes.mean(torch.stack([value.float() for value in self.sums.values()]))
        means = sums.div(self.count).tolist()
        names, self.sums, self.count = list(self.sums), {}, 0
        return dict(zip(names, means, strict=True))


@dataclass
class Loop:
    """What the loop changes: networks by role and number, and their optimiser."""

    networks: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer
    step: int = 0
    log: list[dict[str, float]] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)
    processes: Processes = ALONE
    standing: bool = False  # whether the networks predicted more than background at the last checkpoint
    began: float = field(default_factory=time.monotonic)
    earlier_seconds: float = 0.0  # that the sessions took whose state is continued

    @property
    def device(self) -> torch.device:
        return next(next(iter(self.networks.values())).parameters()).device


def open_loop(role: str, students: list[nn.Module], training: TrainingConfig, processes: Processes) -> Loop:
    """A loop at its start over networks called `role`0, `role`1, ..., made ready as `training` says."""
    for student in students:
        make_ready(student.train(), training)
    parameters = [parameter for student in students for parameter in student.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=training.learning_rate, fused=True)
    networks = {f"{role}{index}": student for index, student in enumerate(students)}
    return Loop(networks, optimizer, processes=processes)


def make_ready(network: nn.Module, training: TrainingConfig) -> nn.Module:
    """`network` in the memory format and, where asked for, compiled form in which it is trained or asked for labels."""
    if training.channels_last:
        network.to(memory_format=torch.channels_last)
    if training.compile:
        network.compile()
    return network


def optimise(
    loop: Loop, step_losses: Callable[[int], Losses], after_step: Callable[[], None] | None,
    training: TrainingConfig, num_steps: int, schedule: Schedule, state: Path, key: str, name: str,
) -> None:
    """Runs `loop` to `num_steps` from wherever its state stands; it waits for the device only to log and save."""
    _restore(loop, state, key)
    _agree_on_step(loop, name, state)
    with stop_requested(loop.processes) as request:
        while loop.step < num_steps:
            rate = schedule(loop.step)
            for group in loop.optimizer.param_groups:
                group["lr"] = rate
            losses = step_losses(loop.step)
            loop.optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            loop.optimizer.step()
            if after_step is not None:
                after_step()
            loop.step += 1
            loop.meter.add(losses)
            last, stop = loop.step == num_steps, request.agreed()
            if loop.step % training.log_every == 0 or last:
                loop.log.append(_log_row(loop, num_steps, rate, name))
            if loop.step % training.checkpoint_every == 0 or last or stop:
                _check_finite(loop, name, state)
                _keep_before_collapse(loop, training, name, state)
                _save_state(loop, state, key, last)
            if stop and not last:
                raise TrainingError(f"{name} stopped by SIGTERM at step {loop.step}; its state is saved, "
                                    "run the same command again to continue")


def _check_finite(loop: Loop, name: str, state: Path) -> None:
    """Raises `TrainingError` if a loss so far was infinite or NaN, or a weight is: a gradient can overflow alone."""
    weights = [value for network in loop.networks.values() for value in network.parameters()]
    losses = loop.processes.mean(loop.meter.finite.float()) == 1  # the weights are the same in all processes
    finite = {"loss": losses, "weights": torch.stack(torch._foreach_norm(weights)).isfinite().all()}
    for what, good in finite.items():
        if not bool(good):
            raise TrainingError(
                f"{name}: the {what} became infinite or NaN by step {loop.step}; the last good state is kept in "
                f"{state}; lower training.learning_rate or method.consistency_weight"
            )


def _keep_before_collapse(loop: Loop, training: TrainingConfig, name: str, state: Path) -> None:
    """When the networks have just fallen to background, puts the state from before that aside, or stops the run."""
    collapse = describe_collapse(loop.log)
    if not collapse.startswith("fell"):
        loop.standing = True
    elif training.on_collapse == "stop":
        raise TrainingError(f"{name}: {collapse}; the state from before is kept in {state}; lower "
                            "training.learning_rate, or set training.on_collapse to warn")
    elif loop.standing:
        loop.standing = False
        if loop.processes.writes:
            with contextlib.suppress(FileNotFoundError):  # before the first checkpoint there is none
                write_bytes((state / "state.pt").read_bytes(), state / "before_collapse.pt")


def _log_row(loop: Loop, num_steps: int, rate: float, name: str) -> dict[str, float]:
    """Means since the last row; every tenth of the run is also a line for people."""
    step, means = loop.step, loop.meter.read(loop.processes)
    row = {"step": step, **{key: round(value, 8) for key, value in means.items()}, "learning_rate": rate}
    tenth = step * 10 // num_steps > (step - 1) * 10 // num_steps or step == num_steps
    if tenth and loop.processes.writes:
        print(f"{name}: step {step} of {num_steps}, loss {row['loss']:.5f}", flush=True)
    return row


def _save_state(loop: Loop, state: Path, key: str, ended: bool) -> None:
    """Writes what `_restore` needs, the sums of every process among it; they are the only thing that differs."""
    sums = {name: loop.processes.gather(value[None]) for name, value in loop.meter.sums.items()}
    if not loop.processes.writes:
        return
    content = {
        "key": key, "step": loop.step, "log": loop.log, "optimizer": loop.optimizer.state_dict(),
        "ended": ended, "seconds": loop.earlier_seconds + time.monotonic() - loop.began,
        "sums": sums, "count": loop.meter.count,
        "networks": {role: network.state_dict() for role, network in loop.networks.items()},
    }
    buffer = io.BytesIO()  # written at once below: torch.save to a full disk says nothing of the disk
    torch.save(content, buffer)
    write_bytes(buffer.getvalue(), state / "state.pt")


def _restore(loop: Loop, state: Path, key: str) -> None:
    """Continues from the saved state if it was made with the same key; any other makes room."""
    try:
        content = torch.load(state / "state.pt", map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError):
        return  # not there, or cut short: begin anew
    if not isinstance(content, dict) or content.get("key") != key:
        if loop.processes.writes:
            _make_room(content, state)
        return
    for role, network in loop.networks.items():
        network.load_state_dict(content["networks"][role])
    loop.optimizer.load_state_dict(content["optimizer"])
    loop.step, loop.log, loop.earlier_seconds = content["step"], content["log"], content["seconds"]
    loop.meter.sums = {name: value[loop.processes.rank, 0].to(loop.device) for name, value in content["sums"].items()}
    loop.meter.count = content["count"]
    loop.standing = not describe_collapse(loop.log).startswith("fell")


def _agree_on_step(loop: Loop, name: str, state: Path) -> None:
    """Raises `TrainingError` where a process alone could not read the state: it would begin anew as others go on."""
    steps = sorted(set(loop.processes.gather(torch.tensor([loop.step], device=loop.device)).flatten().tolist()))
    if len(steps) > 1:
        raise TrainingError(f"{name}: not all of its processes could read {state}/state.pt, they stand at steps "
                            f"{steps[0]} and {steps[-1]}; run the same command again to continue, or delete that file "
                            "to begin anew")


def _make_room(content: object, state: Path) -> None:
    """Says that a state is not continued, and keeps one that was not at its end: it may be the work of hours."""
    kept = ""
    if isinstance(content, dict) and isinstance(content.get("step"), int) and not content.get("ended"):
        aside = state / f"state-at-step-{content['step']}.pt"
        (state / "state.pt").replace(aside)
        kept = f", that state is kept as {aside.name}"
    print(f"{state}/state.pt was made with other numbers, data or code; the run begins anew{kept}", flush=True)
