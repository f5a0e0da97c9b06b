"""What makes a GPU wait is counted at its line, and what does not is not."""
import pytest
import torch

WAITING = {
    "item": lambda there: there[0].item(),
    "float": lambda there: float(there.sum()),
    "a branch": lambda there: bool((there > 1).any()),
    "tolist": lambda there: there.tolist(),
    "cpu": lambda there: there.cpu(),
    "to the CPU": lambda there: there.to("cpu"),
    "to the device": lambda there: torch.zeros(3).to("cuda"),
    "to the device from memory that is not pinned": lambda there: torch.zeros(3).to("cuda", non_blocking=True),
    "made of what the host has": lambda there: torch.tensor([1, 2], device="cuda"),
    "copied in place": lambda there: there.copy_(torch.zeros(3)),
    "nonzero": lambda there: there.nonzero(),
    "a mask": lambda there: there[there > 1],
    "written at a mask": lambda there: there.__setitem__(there > 1, there[:1]),
    "an index from the CPU": lambda there: there[torch.tensor([0, 2])],
    "written at an index from the CPU": lambda there: there.__setitem__(torch.tensor([0, 2]), 1.0),
    "how often each stands": lambda there: torch.bincount(there.long()),
    "unique": lambda there: there.unique(),
    "equal": lambda there: torch.equal(there, there + 0),
    "repeated as often as the device says": lambda there: there.repeat_interleave(there.long()),
    "synchronize": lambda there: torch.cuda.synchronize(),
}
QUIET = {
    "arithmetic": lambda there: (there * 2 + 1).sum(),
    "a view": lambda there: there[1:].view(2, 1),
    "pinned": lambda there: torch.zeros(3).pin_memory().to("cuda", non_blocking=True),
    "to the CPU, not waited for": lambda there: there.to("cpu", non_blocking=True),
    "to where it is": lambda there: there.to("cuda"),
    "made there": lambda there: torch.zeros(3, device="cuda"),
    "indexed there": lambda there: there[there.long()],
    "a number written at a mask": lambda there: there.__setitem__(there > 1, 0.0),
    "where": lambda there: torch.where(there > 1, there, 0),
    "sorted": lambda there: there.argsort(),
    "repeated so many times": lambda there: there.repeat_interleave(2),
    "on the CPU alone": lambda there: float(torch.zeros(3).sum()),
}


@pytest.mark.parametrize("ask", WAITING.values(), ids=WAITING)
@pytest.mark.parametrize("inference", [False, True])
def test_a_wait_is_counted_once(ask, inference, counts):
    there = torch.arange(3.0, device="cuda")
    with torch.inference_mode(inference):
        waits = counts.waits_in(lambda: ask(there))
    assert waits.total() == 1, waits


@pytest.mark.parametrize("ask", QUIET.values(), ids=QUIET)
@pytest.mark.parametrize("inference", [False, True])
def test_what_needs_no_wait_counts_none(ask, inference, counts):
    there = torch.arange(3.0, device="cuda")
    with torch.inference_mode(inference):
        assert counts.waits_in(lambda: ask(there)) == {}


def test_a_wait_is_counted_at_its_line(counts):
    there = torch.arange(3.0, device="cuda")
    counts.clear()
    there.sum().item()
    (where, times), = counts.waits.items()
    assert times == 1 and where.startswith("tests/device/test_counting.py:")
    there.sum().item()
    assert len(counts.waits) == 2


def test_kernels_are_what_is_launched_and_no_view(counts):
    there = torch.ones(4, 4, device="cuda", requires_grad=True)
    counts.clear()
    loss = (there.view(2, 8)[0] * 3).sum()
    assert counts.kernels.total() == 2
    loss.backward()
    assert counts.kernels.total() > 2  # those of the backward pass
    assert not counts.copies and not counts.waits


def test_copies_are_counted_whether_waited_for_or_not(counts):
    torch.zeros(3).pin_memory().to("cuda", non_blocking=True).to("cpu")
    assert sorted(where.split(" ", 1)[1] for where in counts.copies) == ["to the CPU", "to the device"]
