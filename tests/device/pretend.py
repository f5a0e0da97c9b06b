"""A pretend CUDA device: tensors are computed on the CPU, and behave as if they were on a GPU.

    with pretend() as counts:
        main(["--dataset", "digits", "--device", "cuda"])
    print(counts.waits)

What it cannot show: kernels' own results and times, cuDNN's choices, CUDA graphs, and memory running out. Autocast is
the CPU's, whose list of operations differs in a few. A tensor in a file says that it was the CPU's.
"""
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
from device.counting import Counts
from device.operations import Operations
from device.placement import DEVICE, asks_for_device
from device.tensors import Tensors

NAME = "Pretend GPU"
TOTAL = 80 * 10**9  # bytes
PEAK = 123 * 2**20
AUTOCAST = torch.autocast


class Autocast(AUTOCAST):
    """The CPU's autocast for who asks for the GPU's."""

    def __init__(self, device_type, *args, **options):
        super().__init__("cpu" if torch.device(device_type).type == "cuda" else device_type, *args, **options)


class Generator(torch.Generator):
    """A generator that says where it draws; the numbers are the CPU's."""

    def __new__(cls, device="cpu"):
        self = super().__new__(cls, "cpu")
        self.is_there = asks_for_device(device)
        return self

    @property
    def device(self):
        return DEVICE if self.is_there else torch.device("cpu")


@contextmanager
def pretend(capability=(9, 0), free=TOTAL):
    """A machine with one GPU for as long as the block lasts; gives the Counts of what it is asked to do.

    capability: of the card, (major, minor). free: bytes that mem_get_info calls free; with few, images are streamed.
    Everything is undone at the end. A tensor that was on the device is none of the CPU's within a later block either.
    """
    counts = Counts()
    stream = SimpleNamespace(is_capturing=lambda: False)
    operations = Operations(counts)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **answers(counts, capability, free)))
        stack.enter_context(mock.patch.object(torch.accelerator, "current_stream", lambda device=None: stream))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        for module in (torch, torch.amp):
            stack.enter_context(mock.patch.object(module, "autocast", Autocast))
        stack.enter_context(operations)
        stack.enter_context(Tensors(operations))
        yield counts


def answers(counts, capability, free):
    """{name: function} of torch.cuda that ask the driver, and what they say here."""
    properties = SimpleNamespace(name=NAME, major=capability[0], minor=capability[1], total_memory=TOTAL,
                                 multi_processor_count=132)
    said = {"is_available": True, "device_count": 1, "current_device": 0, "get_device_name": NAME,
            "get_device_capability": capability, "get_device_properties": properties,
            "get_arch_list": [f"sm_{capability[0]}{capability[1]}"], "is_bf16_supported": capability >= (8, 0),
            "mem_get_info": (free, TOTAL), "memory_allocated": 0, "max_memory_allocated": PEAK, "memory_reserved": 0,
            "max_memory_reserved": PEAK, "reset_peak_memory_stats": None, "set_device": None, "init": None,
            "empty_cache": None, "is_current_stream_capturing": False}
    functions = {name: lambda *args, value=value, **options: value for name, value in said.items()}
    return functions | {"synchronize": lambda device=None: counts.note(counts.waits, "synchronize")}
