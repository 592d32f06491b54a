"""One run on several processes of one machine, one per GPU: what they share, and how they stop together.

The batch sizes of params.yaml are those of all processes together. Every process draws the streams of the joined
batch and keeps its own rows (batches.py), batch norm is computed over the joined batch, and gradients are averaged:
so any number of processes takes the steps of one, up to rounding, at the same learning rate. All processes hold equal
networks; only the first writes. Whoever uses more processes for *larger* batches should raise the learning rate with
the square root of the batch, Adam's rule (Malladi et al. 2022).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """The processes that train one run together, seen from one of them; by default there is no other."""

    rank: int = 0
    count: int = 1
    messages: dist.ProcessGroup | None = None  # on the CPU: for what must not wait for a GPU
    launcher: int = 0  # process that waits for the run and may die before it

    @property
    def writes(self) -> bool:
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of each process's `values`, the same bits in all of them."""
        return values if self.count == 1 else _JoinedMean.apply(values, self.count)

    def gather(self, values: Tensor) -> Tensor:
        """`values` (N,) of every process, (count, N)."""
        if self.count == 1:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.count)]
        dist.all_gather(parts, values)
        return torch.stack(parts)

    def wait(self) -> None:
        """Returns when every process has come here: what the first one wrote before is there."""
        if self.count > 1:
            dist.barrier(group=self.messages)

    def join_batch_norm(self, network: nn.Module) -> nn.Module:
        """`network` with batch norms over the joined batch in place of its own; parameters and names stay."""
        if self.count == 1:
            return network
        if next(network.parameters()).is_cuda:
            return nn.SyncBatchNorm.convert_sync_batchnorm(network)
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                network.set_submodule(name, JoinedBatchNorm.of(module))
        return network

    def join_gradients(self, network: nn.Module) -> nn.Module:
        """What a step calls in place of `network`, so that backward averages gradients over the processes.

        Buffers are not broadcast: joined batch norms keep them equal, and a broadcast between the passes of a step
        would write into what the backward pass needs.
        """
        if self.count == 1:
            return network
        learner = DistributedDataParallel(network)
        learner.broadcast_buffers = False
        return learner


ALONE = Processes()


class _JoinedMean(torch.autograd.Function):
    """The mean over processes; its gradient is the mean of their gradients."""

    @staticmethod
    def forward(context: Any, values: Tensor, count: int) -> Tensor:
        context.count = count
        joined = values.clone()
        dist.all_reduce(joined)
        return joined / count

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _JoinedMean.apply(gradient.contiguous(), context.count), None


class JoinedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the joined batch of all processes on the CPU, where torch.nn.SyncBatchNorm does not run."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> JoinedBatchNorm:
        """One with the parameters, the values of the buffers and the mode of `norm`."""
        joined = cls(norm.num_features, norm.eps, norm.momentum)
        joined.load_state_dict(norm.state_dict())
        joined.weight, joined.bias = norm.weight, norm.bias
        return joined.train(norm.training)

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return super().forward(images)
        count, channels = dist.get_world_size(), (1, -1, 1, 1)
        mean = _JoinedMean.apply(images.float().mean((0, 2, 3)), count)
        centred = images - mean.view(channels)
        variance = _JoinedMean.apply(centred.square().mean((0, 2, 3)), count)
        if self.track_running_stats:
            cells = count * images.numel() // images.shape[1]
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * cells / (cells - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(channels) + self.bias.view(channels)).to(images.dtype)


class StopRequest:
    """Whether SIGTERM has arrived; with several processes, all learn of it after the same step.

    Each step sends its own answer and reads the joint one of the step before, which has long arrived: nobody waits.
    A process whose launcher has died asks for the stop itself, so that no run goes on that nobody waits for.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes, self.received = processes, False
        self.sent: tuple[Tensor, dist.Work] | None = None

    def agreed(self) -> bool:
        """To be asked once a step, by every process."""
        if self.processes.count == 1:
            return self.received
        stop = self.joint_answer()
        asked = torch.tensor(float(self.received or not _is_alive(self.processes.launcher)))
        self.sent = asked, dist.all_reduce(asked, group=self.processes.messages, async_op=True)
        return stop

    def joint_answer(self) -> bool:
        """Whether any process asked for the stop when all were last asked."""
        if self.sent is None:
            return False
        answer, work = self.sent
        work.wait()
        return bool(answer)

    def receive(self, *_: object) -> None:
        self.received = True


@contextlib.contextmanager
def stop_requested(processes: Processes) -> Iterator[StopRequest]:
    """SIGTERM becomes a request, so that the loop can save its state and stop; torchrun's SIGINT does too."""
    request = StopRequest(processes)
    signals = [signal.SIGTERM] if processes.count == 1 else [signal.SIGTERM, signal.SIGINT]
    previous = [signal.signal(number, request.receive) for number in signals]
    try:
        yield request
        request.joint_answer()  # nobody leaves while another still waits for its message
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True
