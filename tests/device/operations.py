"""Every ATen call, those of a backward pass too: refused where CUDA refuses it, else counted, its results placed."""
import torch
from device.placement import is_pinned, is_there, place, storage_of, tensors_in
from torch.utils._python_dispatch import TorchDispatchMode

# What hands the host a number or a shape that the device has found out.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal",
           "bincount", "_linalg_check_errors"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
JOINING = {"cat", "stack"}  # these take no scalar from the CPU
WHOLE = ("upsample", "_upsample", "native_batch_norm")  # PyTorch takes these apart for compilers alone
MEMORY_ONLY = ("empty", "new_empty", "set_", "resize_", "detach_", "_local_scalar_dense")  # nothing is launched


# What raises on CUDA under torch.use_deterministic_algorithms, as its documentation lists it. Linear interpolation,
# which is listed too, is not: functional.interpolate takes another way then.
NOT_DETERMINISTIC = {
    "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward",
    "avg_pool3d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward", "max_unpool2d",
    "max_unpool3d", "upsample_bicubic2d_backward", "reflection_pad1d_backward", "reflection_pad2d_backward",
    "reflection_pad3d_backward", "nll_loss2d_forward", "_ctc_loss_backward", "put_", "histc",
    "grid_sampler_2d_backward", "grid_sampler_3d_backward"}


class MixedDevices(RuntimeError):
    """Operands, an index or a generator on another device than CUDA allows."""


class Operations(TorchDispatchMode):
    """The pretend device's kernels, into `counts`."""

    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operands = tensors_in((args, kwargs))
        if not any(map(is_there, operands)):
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if torch.is_inference_mode_enabled() and not name.startswith(WHOLE):  # where composite ones arrive whole
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        self.check(name, args, kwargs, operands)
        self.count_waits(name, args, kwargs)
        before = {id(storage_of(operand)) for operand in operands}
        result = func(*args, **kwargs)
        self.settle(name, args, before, tensors_in(result))
        return result

    def check(self, name, args, kwargs, operands):
        """Raise MixedDevices, or what CUDA raises for a result that is not the same each time, where CUDA would."""
        if name in NOT_DETERMINISTIC and torch.are_deterministic_algorithms_enabled():
            raise RuntimeError(f"{name} does not have a deterministic implementation")
        check_generator(name, kwargs)
        if name in INDEXING:
            check_index(name, *args[:3])
        elif name != "copy_":
            check_operands(name, args, operands)

    def count_waits(self, name, args, kwargs):
        """Note what the host would wait for in this call."""
        if name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self.counts.note(self.counts.waits, name)
        elif name in INDEXING and not fills_masked(name, args):
            for index in args[1]:
                if index is not None and not is_there(index):
                    self.counts.note(self.counts.waits, "index from the CPU")
                elif index is not None and index.dtype in (torch.bool, torch.uint8):
                    self.counts.note(self.counts.waits, "index by a mask")
        elif name == "copy_" and is_there(args[0]) != is_there(args[1]):
            self.note_copy(args[1], len(args) > 2 and args[2])

    def note_copy(self, source, non_blocking):
        """Note a copy between the devices; it waits unless told not to, and then from memory that is not pinned."""
        kind = "to the CPU" if is_there(source) else "to the device"
        self.counts.note(self.counts.copies, kind)
        if not (non_blocking and (is_there(source) or is_pinned(source))):
            self.counts.note(self.counts.waits, kind)

    def settle(self, name, args, before, results):
        """Put the results on the device and count the kernel, if the call was no view."""
        if name == "copy_" and not is_there(args[0]):
            return
        is_new = [id(storage_of(result)) not in before for result in results]
        for result in results:
            place(result)
        if (any(is_new) or name.endswith("_") or not results) and not name.startswith(MEMORY_ONLY):
            self.counts.note(self.counts.kernels, name)


def check_generator(name, kwargs):
    """Raise MixedDevices where something on the device is to be drawn by the CPU's generator."""
    generator = kwargs.get("generator")
    if generator is not None and not getattr(generator, "is_there", False):
        raise MixedDevices(f"{name}: Expected a 'cuda' device type for generator but found 'cpu'")


def check_operands(name, args, operands):
    """One device for all, but that a number (a tensor of no dimensions) may be the CPU's where it is only read."""
    strangers = [operand for operand in operands if not is_there(operand)]
    written = tensors_in(args[0]) if name.endswith("_") else []
    if any(stranger.dim() for stranger in strangers) or (strangers and name in JOINING) or not all(
            map(is_there, written)):
        shapes = [(tuple(operand.shape), "cuda" if is_there(operand) else "cpu") for operand in operands]
        raise MixedDevices(f"{name}: Expected all tensors to be on the same device: {shapes}")


def check_index(name, indexed, indices, values=None):
    """What is indexed on the CPU takes no index or values from the device; values for the device lie there."""
    if not is_there(indexed) and any(map(is_there, tensors_in(indices))):
        raise MixedDevices(f"{name}: indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    if values is not None and is_there(values) != is_there(indexed) and (values.dim() or is_there(values)):
        raise MixedDevices(f"{name}: expected values on the device of what is indexed")


def fills_masked(name, args):
    """Whether a number is written where a mask is true: that is masked_fill_, which waits for nothing."""
    return name.startswith(("index_put", "_index_put")) and args[2].numel() == 1 and not is_there(args[2]) and all(
        index is None or (is_there(index) and index.dtype is torch.bool) for index in args[1])
