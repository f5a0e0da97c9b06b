"""What a GPU would be waited for, counted on a CPU."""
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {"_local_scalar_dense", "nonzero", "masked_select"}  # read a tensor's numbers, or size another tensor by them


class HostWaits(TorchDispatchMode):
    """Counts in `count` the operators of its block, backward ones too, that make a CPU wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += function.overloadpacket.__name__ in WAITS
        return function(*arguments, **(options or {}))


@contextmanager
def host_waits(monkeypatch):
    """HostWaits over a block. Those of optimizers are left out: they read counters that lie on the CPU."""
    with HostWaits() as waits, monkeypatch.context() as patch:
        def uncounted(self, step=torch.optim.Adam.step):
            before = waits.count
            step(self)
            waits.count = before
        patch.setattr(torch.optim.Adam, "step", uncounted)
        yield waits
