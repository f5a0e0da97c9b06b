"""The pretend GPU answers as a GPU does, refuses what CUDA refuses, and leaves nothing behind."""
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from device.operations import MixedDevices
from device.pretend import pretend

from data.batches import Batches
from engine.runs import machine
from models import build_model

HELD = ("is_available", "device_count", "mem_get_info", "synchronize", "get_device_capability")


def test_torch_answers_as_with_a_gpu_and_afterwards_as_before():
    before = {name: getattr(torch.cuda, name) for name in HELD}, torch.autocast, torch.accelerator.current_stream
    with pretend(capability=(7, 5), free=1000):
        assert torch.cuda.is_available() and torch.cuda.get_device_capability() == (7, 5)
        assert torch.cuda.mem_get_info("cuda")[0] == 1000
        assert torch.zeros(1, device="cuda").device == torch.device("cuda:0")
    after = {name: getattr(torch.cuda, name) for name in HELD}, torch.autocast, torch.accelerator.current_stream
    assert after == before
    assert torch.zeros(1).device.type == "cpu"


def test_an_error_inside_leaves_no_pretense_behind():
    with pytest.raises(ZeroDivisionError), pretend():
        raise ZeroDivisionError
    assert torch.zeros(1).cpu().numpy() == 0
    assert torch.cuda.is_available.__module__ == "torch.cuda"


def test_the_suites_own_questions_are_answered(counts):
    assert machine.find_device("cuda").type == "cuda"
    assert machine.device_name(torch.device("cuda")) == "Pretend GPU"
    assert machine.peaks(torch.device("cuda"))["peak_device_memory_mb"] == 123


@pytest.mark.parametrize("make", [
    lambda: torch.arange(4, device="cuda"), lambda: torch.tensor([1.0], device="cuda:0"),
    lambda: torch.zeros(3).to("cuda"), lambda: torch.zeros(3).cuda(), lambda: torch.zeros(3).to(device="cuda"),
    lambda: torch.zeros(3).to(torch.ones(1, device="cuda")), lambda: torch.zeros(3, device="cuda").double(),
    lambda: torch.ones_like(torch.zeros(3, device="cuda")), lambda: torch.zeros(2, 3, device="cuda")[0].t(),
    lambda: torch.as_tensor(np.ones(3), device="cuda"), lambda: torch.zeros(3, device="cuda").new_zeros(2),
    lambda: copy.deepcopy(torch.zeros(3, device="cuda")), lambda: torch.zeros(3).pin_memory().to("cuda"),
    lambda: torch.nn.Linear(2, 3).to("cuda").weight.detach(), lambda: torch.nn.BatchNorm2d(2).cuda().running_mean])
def test_what_is_made_there_is_there(make, counts):
    tensor = make()
    assert tensor.is_cuda and not tensor.is_cpu and tensor.get_device() == 0 and tensor.device.type == "cuda"


@pytest.mark.parametrize("make", [
    lambda there: there.cpu(), lambda there: there.to("cpu"), lambda there: there.to("cpu", non_blocking=True),
    lambda there: there.to(torch.ones(1)), lambda there: torch.zeros_like(there, device="cpu"),
    lambda there: there.cpu().pin_memory(), lambda there: torch.tensor(there.tolist())])
def test_what_is_brought_back_is_the_cpus(make, counts):
    there = torch.arange(3.0, device="cuda")
    back = make(there)
    assert back.is_cpu and there.is_cuda
    assert back.numpy().shape == (3,)


def test_a_copy_has_memory_of_its_own(counts):
    here = torch.zeros(3)
    there = here.to("cuda")
    there += 1
    assert here.tolist() == [0, 0, 0] and there.tolist() == [1, 1, 1]


def test_gradients_are_where_their_weights_are(counts):
    layer = torch.nn.Linear(3, 2).to("cuda")
    layer(torch.ones(4, 3, device="cuda")).sum().backward()
    assert layer.weight.grad.is_cuda
    assert layer.weight.grad.cpu().tolist() == [[4.0] * 3] * 2


def test_gradients_pass_a_copy_to_the_device(counts):
    here = torch.ones(3, requires_grad=True)
    (2 * here.to("cuda")).sum().cpu().backward()
    assert here.grad.tolist() == [2, 2, 2]


def test_numbers_are_those_of_the_cpu(counts):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = build_model("resnet18", 2, 10).eval()
    with torch.inference_mode():
        assert torch.equal(model.to("cuda")(images.to("cuda")).cpu(), model.to("cpu")(images))


MIXED = {
    "two operands": lambda there, here: there + here,
    "the other order": lambda there, here: here * there,
    "a number of the device's": lambda there, here: here + there.sum(),
    "joined": lambda there, here: torch.cat([there, here]),
    "stacked numbers": lambda there, here: torch.stack([there.sum(), here.sum()]),
    "a product": lambda there, here: here.view(1, -1) @ there.view(-1, 1),
    "written in place": lambda there, here: here.add_(there),
    "a number written in place": lambda there, here: here.sum().add_(there.sum()),
    "a CUDA index into a CPU tensor": lambda there, here: here[there.long()],
    "a CUDA mask of a CPU tensor": lambda there, here: here[there > 1],
    "CUDA values for a CPU tensor": lambda there, here: here.__setitem__(torch.tensor([0, 1]), there[:2]),
    "CPU values for a CUDA tensor": lambda there, here: there.__setitem__(there.long()[:2], here[:2]),
    "a CPU generator for a CUDA tensor": lambda there, here: there.uniform_(0, 1, generator=torch.Generator()),
    "a CPU generator, made there": lambda there, here: torch.rand(3, generator=torch.Generator(), device="cuda"),
}


def test_a_generator_of_the_device_draws_there(counts):
    generator = torch.Generator("cuda").manual_seed(3)
    drawn = torch.rand(3, generator=generator, device="cuda")
    assert generator.device == drawn.device and drawn.is_cuda
    assert drawn.cpu().tolist() == torch.rand(3, generator=torch.Generator().manual_seed(3)).tolist()


@pytest.mark.parametrize("mix", MIXED.values(), ids=MIXED)
def test_mixed_devices_are_refused(mix, counts):
    with pytest.raises(MixedDevices):
        mix(torch.arange(3.0, device="cuda"), torch.arange(3.0))


@pytest.mark.parametrize("mix", [MIXED[name] for name in ("two operands", "a CUDA mask of a CPU tensor", "a product")])
def test_mixed_devices_are_refused_under_inference_mode_too(mix, counts):
    with torch.inference_mode(), pytest.raises(MixedDevices):
        mix(torch.arange(3.0, device="cuda"), torch.arange(3.0))


@pytest.mark.parametrize("read", [torch.Tensor.numpy, np.asarray, lambda there: there.detach().numpy(),
                                  lambda there: there[1:].view(-1).numpy()])
def test_a_tensor_on_the_device_is_no_numpy_array(read, counts):
    with pytest.raises(TypeError, match="to numpy"):
        read(torch.arange(3.0, device="cuda"))


def test_a_tensor_on_the_device_cannot_be_pinned(counts):
    with pytest.raises(RuntimeError, match="pin"):
        torch.zeros(3, device="cuda").pin_memory()
    assert torch.zeros(3).pin_memory().is_pinned() and not torch.zeros(3).is_pinned()


def test_what_is_not_the_same_each_time_is_refused_where_that_is_asked_for(counts):
    images, grid = torch.ones(1, 1, 4, 4, device="cuda", requires_grad=True), torch.zeros(1, 4, 4, 2, device="cuda")
    for wanted in (False, True):
        machine.set_determinism(wanted)
        warped = F.grid_sample(images, grid, align_corners=False).sum()
        if wanted:
            with pytest.raises(RuntimeError, match="deterministic"):
                warped.backward()
        else:
            warped.backward()
    with torch.inference_mode():
        F.grid_sample(images, grid, align_corners=False)


def test_a_number_from_the_cpu_may_meet_the_device(counts):
    assert (torch.arange(3, device="cuda") + torch.tensor(1)).tolist() == [1, 2, 3]


def test_images_that_do_not_fit_are_streamed(images):
    with pretend(free=1000):
        batches = Batches(images, 8, "cuda")
        assert not batches.resident and batches.images.is_cpu
        assert all(pixels.is_cuda and labels.is_cuda for pixels, labels in batches)
    with pretend():
        assert Batches(images, 8, "cuda").images.is_cuda


@pytest.mark.parametrize("resident", [True, False])
def test_batches_are_the_same_on_every_device(resident, images, counts):
    def batches(device):
        return Batches(images, 16, device, torch.Generator().manual_seed(3), 4, True, resident=resident)
    for (here, label), (there, its_label) in zip(batches("cpu"), batches("cuda"), strict=True):
        assert there.is_cuda and torch.equal(here, there.cpu()) and torch.equal(label, its_label.cpu())
