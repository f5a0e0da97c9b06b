"""Which storages are on the pretend device: a storage carries its place as an attribute for as long as it lasts.

Views, detached tensors and a parameter's data share a storage, so that they are always in one place.
"""
import torch

DEVICE = torch.device("cuda", 0)


def is_there(tensor):
    """Whether a tensor is on the pretend device."""
    return getattr(storage_of(tensor), "is_on_pretend_device", False)


def is_pinned(tensor):
    """Whether a tensor is in host memory that the device could read on its own."""
    return getattr(storage_of(tensor), "is_pinned_for_pretense", False)


def place(tensor, there=True):
    """The tensor, its storage put on the pretend device, or taken from it."""
    storage_of(tensor).is_on_pretend_device = there
    return tensor


def pin(tensor):
    """The tensor, its storage called pinned."""
    storage_of(tensor).is_pinned_for_pretense = True
    return tensor


def storage_of(tensor):
    """The storage of a tensor; None for one that has none, such as a sparse one."""
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def share_storage(one, other):
    """Whether two tensors look at the same memory."""
    return storage_of(one) is storage_of(other)


def tensors_in(value):
    """The tensors in arguments or results: lists, tuples and dicts of them, at any depth."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [tensor for part in value for tensor in tensors_in(part)]


def asks_for_device(wanted):
    """Whether what a call names as a device (a torch.device, its name, or a number) is the pretend one."""
    return isinstance(wanted, int) or torch.device(wanted).type == "cuda"
