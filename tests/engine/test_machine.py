"""A GPU is stood in for here: torch.cuda answers as one would, and tensors asked for on it are made on the CPU."""
import logging
import subprocess
from argparse import Namespace

import pytest
import torch

from common.errors import UserError
from engine.runs import machine
from engine.runs.machine import find_device  # the real one: a fixture of all tests replaces the module's
from models import build_model

GPU = torch.device("cuda")
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device\nCompile with TORCH_USE_CUDA_DSA"


@pytest.fixture
def card(monkeypatch):
    """A function that lets torch.cuda report a card, which runs kernels or does not, and lists what becomes current."""
    zeros, current = torch.zeros, []

    def make(works):
        def on_the_cpu(*sizes, device):
            if torch.device(device).type == "cuda" and not works:
                raise RuntimeError(NO_KERNEL)
            return zeros(*sizes)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(str(device)))
        monkeypatch.setattr(torch, "zeros", on_the_cpu)
        return current
    return make


def test_auto_takes_a_card_that_runs_a_kernel(card):
    card(works=True)
    assert find_device("auto") == GPU


def test_auto_goes_on_on_the_cpu_with_a_warning_where_the_card_runs_no_kernel(card, caplog):
    card(works=False)
    assert find_device("auto") == torch.device("cpu")
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "no kernel image" in warning.getMessage()
    assert "DSA" not in warning.getMessage()


def test_a_named_card_that_runs_no_kernel_is_an_error_of_one_line(card):
    card(works=False)
    with pytest.raises(UserError, match=r"--device cuda: CUDA error: no kernel image .* on the device$"):
        find_device("cuda")


@pytest.mark.parametrize(("name", "said"), [
    ("mps", "has no such device"), ("xpu", "has no such device"), ("vulkan", "has no such device"),
    ("hpu", "has no such device"), ("tpu", "expected auto, cpu"), ("cpu:x", "expected auto, cpu"), ("meta", "meta")])
def test_a_device_that_is_not_there_is_refused_in_one_short_line(name, said):
    """The kind: PyTorch's own text, up to 1,500 letters, or a traceback. Siblings: xpu, vulkan, hpu, a mistyped one."""
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("the device is there")
    with pytest.raises(UserError, match=f"--device {name}: .*{said}") as refused:
        find_device(name)
    assert len(str(refused.value)) < 100 and "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "current"), [("cuda:1", ["cuda:1"]), ("cuda", []), ("auto", []), ("cpu", [])])
def test_a_device_with_a_number_becomes_the_current_one(card, name, current):
    found = card(works=True)
    find_device(name)
    assert found == current


@pytest.mark.slow
def test_a_card_that_only_reports_itself_is_not_a_working_gpu(card, monkeypatch, capfd):
    card(works=True)  # in this process; the one that is asked sees none
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not machine.has_working_gpu()
    assert "Error" not in capfd.readouterr().err  # the other process found this package, and no card


@pytest.mark.parametrize("status", [0, 1])
def test_whether_a_gpu_works_is_asked_of_another_process(card, monkeypatch, status):
    card(works=True)
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: subprocess.CompletedProcess(words, status))
    assert machine.has_working_gpu() is (status == 0)


@pytest.mark.parametrize(("capability", "wanted"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_card_trains_in_bfloat16_by_default_from_ampere_on(monkeypatch, capability, wanted):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert machine.multiplies_bfloat16(GPU) is wanted
    assert machine.trains_in_bfloat16(Namespace(amp=None), GPU) is wanted
    assert machine.trains_in_bfloat16(Namespace(amp=None, recipe="fast"), GPU) is wanted
    assert machine.trains_in_bfloat16(Namespace(amp=True), GPU)
    assert not machine.trains_in_bfloat16(Namespace(amp=False), GPU)


@pytest.mark.parametrize(("width", "device", "wanted"), [(8, "cpu", 1), (16, "cpu", 2), (8, "meta", 2)])
def test_a_cpu_trains_a_narrow_network_on_one_thread(width, device, wanted):
    torch.set_num_threads(2)
    try:
        machine.spare_narrow(build_model("resnet18", width, 10), torch.device(device), 32)
        assert torch.get_num_threads() == wanted
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("width", "pixels", "device", "wanted"), [
    (8, 48, "cpu", False), (12, 96, "cpu", False), (8, 32, "cpu", True), (16, 96, "cpu", True), (8, 48, "meta", True)])
def test_a_narrow_network_of_large_images_leaves_the_convolutions_that_crash(width, pixels, device, wanted):
    machine.spare_narrow(build_model("resnet18", width, 10), device, pixels)
    assert torch.backends.mkldnn.enabled is wanted


def test_the_code_s_commit_says_whether_files_were_changed(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x", *words], check=True)
    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-q", "-m", "one")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    clean = machine.commit()
    (tmp_path / "code.py").write_text("2")
    assert len(clean) == 40 and machine.commit() == f"{clean}-dirty"
