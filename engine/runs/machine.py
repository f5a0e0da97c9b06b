"""The machine that a run uses, as recorded in config.json and results.json."""
import logging
import os
import platform
import resource
import subprocess
import sys
from argparse import Namespace
from importlib import metadata
from pathlib import Path

import numpy as np
import PIL
import torch

from common.errors import UserError

log = logging.getLogger("backdoor")
MAX_REASON = 200  # letters of PyTorch's
NARROW = 8  # channels
SAFE_WIDTH, SAFE_PIXELS = 16, 40  # channels from which on, and a side up to which, none has crashed on one thread
ROOT = Path(__file__).resolve().parents[2]
FIND_GPU = "from engine.runs import machine; raise SystemExit(machine.find_device('auto').type == 'cpu')"


def find_device(name: str) -> torch.device:
    """The torch.device for `name`; auto is a working GPU, otherwise the CPU. Raises UserError for a device that does
    not work."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return try_device(found if name == "auto" else name)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = shortest(str(error))
    if name != "auto":
        raise UserError(f"--device {name}: {reason}")
    log.warning("the GPU does not work (%s), so this runs on the CPU", reason)
    return torch.device("cpu")


def shortest(reason: str) -> str:
    """The first sentence of what PyTorch says: CUDA's messages go on with advice on debugging, and one about a device
    that is not built in with a list of 1,500 letters of all devices that might have been."""
    if any(part in reason for part in ("Could not run", "not compiled with", "No module named")):
        return "this machine's PyTorch has no such device; try auto or cpu"
    if reason.startswith("Expected one of") or "Invalid device string" in reason:
        return "expected auto, cpu, cuda, cuda:1, ..."
    reason = reason.partition("\n")[0].partition(". ")[0]
    return reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}..."


def try_device(name: str) -> torch.device:
    """The torch.device `name`, after it has run a kernel: a GPU that is too old for this PyTorch, or reserved by
    another process, fails here. A device with a number becomes the current one, since the current device's context pins
    memory."""
    device = torch.device(name)
    torch.zeros(1, device=device).add(1).item()
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def has_working_gpu() -> bool:
    """Whether find_device("auto") finds a GPU. A child process checks, so that this process takes no GPU memory."""
    return torch.cuda.is_available() and not subprocess.run([sys.executable, "-c", FIND_GPU], cwd=ROOT).returncode


def set_determinism(wanted: bool) -> None:
    """Make a GPU either return the same bits each time or try which convolution is fastest. No effect on a CPU."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first matrix product
    if wanted != torch.are_deterministic_algorithms_enabled():  # setting it imports torch's compiler, a second's work
        torch.use_deterministic_algorithms(wanted)
    set_cudnn_benchmark(not wanted)


def set_cudnn_benchmark(wanted: bool) -> None:
    """Whether a GPU tries which convolution is fastest for each new shape: useful if batches keep their shape."""
    torch.backends.cudnn.benchmark = wanted


def spare_narrow(model: torch.nn.Module, device: torch.device | str, pixels: int) -> None:
    """Let a CPU train a narrow network on one thread from here on, one of large images by PyTorch's own convolutions.

    pixels: a side of its images. oneDNN's convolutions write beyond their memory in two cases: on several threads, with
    8 channels or fewer and a batch of an odd number of images; and on some CPUs (AMD EPYC with AVX-512) on one thread
    too, with fewer than 16 channels and images of 48 pixels a side or more. The process ends in "free(): invalid next
    size" (seen with PyTorch 2.14 and 2.15). PyTorch's own convolutions do not, and took up to 2.5 times as long.
    """
    if torch.device(device).type != "cpu":
        return
    width = min((module.out_channels for module in model.modules() if isinstance(module, torch.nn.Conv2d)),
                default=SAFE_WIDTH)
    if width <= NARROW and torch.get_num_threads() > 1:
        log.info("a network of %d channels: one thread, since oneDNN's convolutions crash on several", width)
        torch.set_num_threads(1)
    if width < SAFE_WIDTH and pixels > SAFE_PIXELS and torch.backends.mkldnn.enabled:
        log.info("a network of %d channels on images of %d pixels: without oneDNN, whose convolutions crash", width,
                 pixels)
        torch.backends.mkldnn.enabled = False


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 matrix instructions; without them bfloat16 is slower than float32.

    PyTorch passes bfloat16 convolutions to cuDNN from compute capability 8.0 (Ampere) on. On an older GPU it runs a
    kernel of its own, one image at a time.
    """
    if device.type == "cpu":
        known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(asked and asked() for asked in known)
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def trains_in_bfloat16(args: Namespace, device: torch.device) -> bool:
    """Whether a run trains in bfloat16: as --amp says; by default on a GPU with bfloat16 instructions, and on such a
    CPU only with a --recipe that is not the homework's.

    args: a script's parsed flags; a script without --amp trains in float32.
    """
    amp, is_own = getattr(args, "amp", False), getattr(args, "recipe", "homework") != "homework"
    if amp is None:
        return (device.type == "cuda" or is_own) and multiplies_bfloat16(device)
    return amp


def device_name(device: torch.device) -> str:
    """The name of the GPU or processor that a figure was measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The versions that figures may depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__,
            "torchvision": metadata.version("torchvision"),  # importing it takes a second
            "numpy": np.__version__, "pillow": PIL.__version__}


def commit() -> str | None:
    """The code's commit, with -dirty appended if files were changed; None outside a checkout."""
    try:
        done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
                              capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def peak_memory_mb() -> int:
    """The most memory that this process has used, in MiB. ru_maxrss counts bytes on macOS and KiB elsewhere."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


def peaks(device: torch.device) -> dict[str, int]:
    """peak_memory_mb, and on a GPU peak_device_memory_mb, in the form of results.json.

    peak_device_memory_mb is the most that PyTorch has allocated there: tensors, and the workspaces of the convolutions
    that cuDNN tried in its search for the fastest. Those may take gigabytes more than the same run needs with
    --deterministic.
    """
    found = {"peak_memory_mb": peak_memory_mb()}
    if device.type == "cuda":
        found["peak_device_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return found
