"""What the tests of the pretend GPU share. `--device auto` stays the CPU in tests; scripts are given --device cuda."""
import pytest
import torch
from device.pretend import pretend


@pytest.fixture(autouse=True)
def how_it_computes_is_put_back():
    """A run sets for the whole process how a GPU chooses its convolutions."""
    deterministic, tried = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = tried


@pytest.fixture
def counts():
    """The Counts of a pretend GPU that is there for the whole test."""
    with pretend() as counted:
        yield counted
