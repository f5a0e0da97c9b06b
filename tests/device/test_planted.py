"""Faults of the kind that only a GPU shows, planted in a small training, are found."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from device.operations import MixedDevices
from device.small import network, shuffled

from models.pruning import output_masked


def step(mask_on="cuda", labels_on="cuda", noise_on="cpu", read=lambda loss: loss.detach().cpu().numpy()):
    """One step of training under a channel mask and with noise on the images; returns its loss."""
    model, generator = network().train(), torch.Generator().manual_seed(0)
    (images, labels), = shuffled(4, 4)
    noise = torch.empty(images.shape, device=noise_on).uniform_(generator=generator).to(images.device)
    with output_masked(model, "layer4", torch.ones(16, device=mask_on)):
        loss = F.cross_entropy(model(images + noise / 255), labels.to(labels_on))
    loss.backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    return read(loss)


def test_the_step_without_a_fault_runs(counts):
    assert np.isfinite(step())


@pytest.mark.parametrize("fault, kind", [
    ({"mask_on": "cpu"}, MixedDevices), ({"labels_on": "cpu"}, MixedDevices), ({"noise_on": "cuda"}, MixedDevices),
    ({"read": lambda loss: loss.detach().numpy()}, TypeError)], ids=["mask", "labels", "generator", "numpy"])
def test_a_fault_is_found(fault, kind, counts):
    with pytest.raises(kind):
        step(**fault)
