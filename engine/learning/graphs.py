"""The forward and backward passes of a training step as CUDA graphs: two launches instead of about 230.

The speed of a small network's step is limited by how fast the processor launches kernels. torch.compile saves the
launches too but takes a minute to start; torch.cuda.make_graphed_callables captures the kernels that run anyway.
"""
import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F

from common.errors import UserError


def check_graph(device: torch.device, num_images: int, batch_size: int) -> None:
    """Raise UserError unless training steps over `num_images` images can run as CUDA graphs on the torch.device."""
    if device.type != "cuda":
        raise UserError(f"--graph: expected a CUDA device, got {device.type}; leave the flag out")
    if num_images < batch_size:
        raise UserError(f"--graph: a graph needs whole batches, and {num_images} training images do not fill one of "
                        f"--batch-size {batch_size}; choose a smaller one or leave the flag out")


def graphed_forward(model: torch.nn.Module, images: torch.Tensor,
                    amp: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
    """`model`'s forward pass in train mode, with its backward pass, captured for batches of the shape of `images`.

    Returns images (B, 3, 32, 32) -> logits (B, C). The model's weights and statistics are unchanged. A replay reads and
    writes them at their addresses, so they may be changed in place but not replaced. The next call overwrites the
    logits and the values for the backward pass, so a step may call it only once. amp: compute in bfloat16.

    Raises AssertionError for a model with hooks of its own; hooks of its submodules are captured.
    """
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    # PyTorch does not capture with the cast cache on: cached casts would be freed while the graph still uses them.
    with torch.autocast(images.device.type, torch.bfloat16, enabled=amp, cache_enabled=False):
        torch.cuda.make_graphed_callables(model, (images.clone(),))
    forward = model.__dict__.pop("forward")  # if it stayed, a deepcopy of the model would call this model's graph
    model.load_state_dict(before)  # the warm-up has changed the running statistics
    return forward


class GraphedModel:
    """Calls `model` through a graph for batches of `batch_size` images, and directly for others, such as a short last
    batch.

    The graph is captured at the first whole batch. For steps that call the model once.
    """

    def __init__(self, model: torch.nn.Module, batch_size: int, amp: bool = False):
        self.model, self.batch_size, self.amp, self.forward = model, batch_size, amp, None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) != self.batch_size:
            return self.model(images)
        if self.forward is None:
            self.forward = graphed_forward(self.model, images, self.amp)
        return self.forward(images)


def descend(model: torch.nn.Module, call: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor,
            labels: torch.Tensor, amp: bool, count: int) -> torch.Tensor:
    """Make `count` SGD steps on one batch; returns their losses, float32 (count,)."""
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.05, 0.9), []
    model.train()
    for _ in range(count):
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            loss = F.cross_entropy(call(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().float())
    return torch.stack(losses)


def compare_steps(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, amp: bool = False,
                  count: int = 5) -> dict:
    """Compare graphed steps with plain steps from the same weights: a check to make before using --graph.

    images (B, 3, 32, 32) and labels (B,) on the device. Returns {"eager", "graphed": the losses of `count` steps,
    "losses_apart", "statistics_apart", "weights_apart": the largest difference of losses, and of the running statistics
    and weights after the last step, relative to the largest value of each tensor, "same_counts": whether
    num_batches_tracked agrees}. `model` is unchanged.
    """
    plain, graphed = copy.deepcopy(model), copy.deepcopy(model)
    eager = descend(plain, plain, images, labels, amp, count)
    ours = descend(graphed, GraphedModel(graphed, len(images), amp), images, labels, amp, count)
    one, other = plain.state_dict(), graphed.state_dict()
    counts = [name for name in one if name.endswith("num_batches_tracked")]
    statistics = [name for name in one if "running" in name]
    weights = [name for name, _ in plain.named_parameters()]
    return {"eager": eager.tolist(), "graphed": ours.tolist(), "losses_apart": apart(eager, ours),
            "statistics_apart": max((apart(one[name], other[name]) for name in statistics), default=0.0),
            "weights_apart": max(apart(one[name], other[name]) for name in weights),
            "same_counts": all(torch.equal(one[name], other[name]) for name in counts)}


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference between two tensors, relative to the largest value of the first."""
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-12))
