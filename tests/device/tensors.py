"""What Python asks of a tensor: where it is, to be moved, to be made there, to be read on the host."""
import torch
from device.operations import check_generator
from device.placement import DEVICE, asks_for_device, is_pinned, is_there, pin, place, share_storage
from torch.overrides import TorchFunctionMode

FROM_HOST_DATA = {torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor}
NOT_NUMPY = ("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory "
             "first.")


class Tensors(TorchFunctionMode):
    """Tensors that say that they are on the pretend device; what moves them is noted by `operations`."""

    def __init__(self, operations):
        super().__init__()
        self.operations, self.counts = operations, operations.counts
        tensor = torch.Tensor
        self.answers = {
            tensor.device.__get__: self.device, tensor.is_cuda.__get__: is_there, tensor.is_cpu.__get__: self.is_cpu,
            tensor.get_device: self.get_device, tensor.to: self.to, tensor.cpu: self.cpu, tensor.cuda: self.cuda,
            tensor.pin_memory: self.pin_memory, tensor.is_pinned: self.is_pinned, tensor.numpy: self.numpy,
            tensor.__array__: self.array, tensor.tolist: self.tolist, tensor.__deepcopy__: self.deepcopy}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.answers:
            return self.answers[func](*args, **kwargs)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type in ("cuda", "cpu"):
            return self.make(func, args, kwargs)
        return func(*args, **kwargs)

    def device(self, tensor):
        return DEVICE if is_there(tensor) else tensor.device

    def is_cpu(self, tensor):
        return tensor.is_cpu and not is_there(tensor)

    def get_device(self, tensor):
        return 0 if is_there(tensor) else tensor.get_device()

    def to(self, tensor, *args, **kwargs):
        target = target_of(args, kwargs, is_there(tensor))
        if target is None:  # of another kind, such as meta
            return tensor.to(*args, **kwargs)
        args, kwargs = named_cpu(args, kwargs)
        if target == is_there(tensor):
            return tensor.to(*args, **kwargs)
        flags = [arg for arg in args if isinstance(arg, bool)]
        self.operations.note_copy(tensor, kwargs.get("non_blocking", bool(flags and flags[0])))
        with self.counts.paused():
            moved = tensor.to(*args, **kwargs)
            return place(moved.clone() if share_storage(moved, tensor) else moved, target)

    def cpu(self, tensor, memory_format=torch.preserve_format):
        return self.to(tensor, "cpu", memory_format=memory_format)

    def cuda(self, tensor, device=None, non_blocking=False, memory_format=torch.preserve_format):
        return self.to(tensor, "cuda", non_blocking=non_blocking, memory_format=memory_format)

    def pin_memory(self, tensor):
        if is_there(tensor):
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
        return tensor if is_pinned(tensor) else pin(tensor.clone())

    def is_pinned(self, tensor):
        return is_pinned(tensor)

    def numpy(self, tensor, **options):
        refuse_numpy(tensor)
        return tensor.numpy(**options)

    def array(self, tensor, *args, **options):
        refuse_numpy(tensor)
        return tensor.__array__(*args, **options)

    def tolist(self, tensor):
        if is_there(tensor):
            self.counts.note(self.counts.waits, "tolist")
        return tensor.tolist()

    def deepcopy(self, tensor, memo):
        with self.counts.paused():
            copied = tensor.__deepcopy__(memo)
        return place(copied) if is_there(tensor) else copied

    def make(self, func, args, kwargs):
        """A call with a `device`: a tensor made there, of nothing, of a shape, or of what the host has."""
        target = asks_for_device(kwargs["device"])
        if target:
            check_generator(func.__name__, kwargs)
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if target and func in FROM_HOST_DATA and (source is None or not is_there(source)):
            self.counts.note(self.counts.waits, "made of what the host has")
        with self.counts.paused():
            made = func(*args, **{**kwargs, "device": "cpu"})
            if source is not None and share_storage(made, source):
                return made if is_there(source) == target else place(made.clone(), target)
        return place(made, target)


def refuse_numpy(tensor):
    if is_there(tensor):
        raise TypeError(NOT_NUMPY)


def named_devices(args, kwargs):
    """What the arguments of Tensor.to name as a place: a device, its name or number, or a tensor that is there."""
    named = [kwargs.get("device"), kwargs.get("other"), *args[:1]]
    return [value for value in named if value is not None and not isinstance(value, torch.dtype)]


def target_of(args, kwargs, now):
    """Whether Tensor.to is to leave its result on the pretend device; None for a device that is no pretense's."""
    for named in named_devices(args, kwargs):
        if isinstance(named, torch.Tensor):
            return is_there(named)
        if not isinstance(named, int) and torch.device(named).type not in ("cuda", "cpu"):
            return None
        return asks_for_device(named)
    return now


def named_cpu(args, kwargs):
    """The arguments of Tensor.to with the CPU in place of a device."""
    args = list(args)
    if args and isinstance(args[0], (str, int, torch.device)):
        args[0] = "cpu"
    return args, {**kwargs, "device": "cpu"} if kwargs.get("device") is not None else kwargs
