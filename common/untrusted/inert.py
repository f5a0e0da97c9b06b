"""Strangers' pickles, walked without running anything: an object of any class becomes an Inert.

Python's own unpicklers import and call what a file names. This one reads the operations (pickletools, which parses
them alone) and has no way to import: a class or a function is its name, and what is made of it keeps its arguments.
"""
from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

MAX_STEPS = 3 * 10**6  # operations; a picture in memory takes 44

class Inert:
    """What stands for an object. name: what was named or called, "" for something that has no name.

    arguments: what it was called with; None for a name alone. items: of a kind of dict, None without any. state: what
    it was given to set its state with.
    """

    __slots__ = ("arguments", "items", "name", "state")

    def __init__(self, name: str = "", arguments: Any = None):
        self.name, self.arguments, self.items, self.state = name, arguments, None, None

    def attributes(self) -> dict:
        """Those that its state sets, where that is of the usual form: a dict, or one and another of its slots."""
        parts = self.state if isinstance(self.state, tuple) and len(self.state) == 2 else (self.state,)
        return {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}


def walk(content: bytes) -> Any:
    """What a pickle holds: plain values, lists, tuples and dicts, and Inert for everything else.

    Raises ValueError for a torn or strange one, for one of more than MAX_STEPS operations, and for operations that
    no file of torch.save has.
    """
    machine = _Machine()
    try:
        for step, (operation, argument, _) in enumerate(pickletools.genops(content)):
            if step >= MAX_STEPS:
                raise ValueError(f"more than {MAX_STEPS} operations")
            if operation.name == "STOP":
                return machine.stack.pop()
            OPERATIONS[operation.name](machine, argument)
    except ValueError:
        raise
    except Exception as error:  # an empty stack, an unknown memo, an operation that is not in the table, ...
        raise ValueError(f"not a sound pickle ({error!r})") from None
    raise ValueError("not a sound pickle (no end)")


KEYS = (str, int, float, bool, bytes, type(None), Inert)  # of dicts: a deep tuple's hash would exhaust the stack


class _Machine:
    """The stack, its marks, and what was put aside to be used again."""

    def __init__(self):
        self.stack, self.marks, self.memo = [], [], {}

    def since_mark(self):
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def put(self, place: Any, _: Any = None):
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def call(self, arguments: Any, function: Any):
        self.stack.append(Inert(function.name if isinstance(function, Inert) else "", arguments))

    def call_items(self, items: Any, name: Any = None):
        function = Inert(name.replace(" ", ".")) if name else items.pop(0)
        self.call(tuple(items), function)

    def append(self, items: Any):
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def set_items(self, items: Any):
        target, pairs = self.stack[-1], zip(items[::2], items[1::2], strict=True)
        if isinstance(target, Inert):
            target.items = target.items or {}
            target = target.items
        if isinstance(target, dict):
            target.update((key, value) for key, value in pairs if type(key) in KEYS)

    def build(self, state: Any):
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state


def _push(make: Callable) -> Callable:
    """An operation that puts make(argument) on the stack."""
    return lambda machine, argument: machine.stack.append(make(argument))


def _tuple(count: int):
    def operation(machine: Any, _: Any):
        items = machine.stack[-count:]
        if len(items) < count:
            raise IndexError("tuple")
        machine.stack[-count:] = [tuple(items)]
    return operation


def _newobj_ex(machine: Any, _: Any):
    _, arguments, function = (machine.stack.pop() for _ in range(3))
    machine.call(arguments, function)


def _global(machine: Any, _: Any):
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(Inert(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""))


# {operation: what it does to a _Machine, given its argument}. The registry of extensions, buffers outside of the file
# and whatever comes later are left out.
OPERATIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys((
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
        "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
        "BINBYTES8", "BYTEARRAY8"), _push(lambda argument: argument)),
    "NONE": _push(lambda _: None), "NEWTRUE": _push(lambda _: True), "NEWFALSE": _push(lambda _: False),
    "EMPTY_LIST": _push(lambda _: []), "EMPTY_DICT": _push(lambda _: {}), "EMPTY_TUPLE": _push(lambda _: ()),
    "EMPTY_SET": _push(lambda _: Inert("builtins.set")),
    "GLOBAL": _push(lambda argument: Inert(argument.replace(" ", "."))), "STACK_GLOBAL": _global,
    "PERSID": _push(lambda argument: Inert("persistent", argument)),
    "BINPERSID": lambda machine, _: machine.stack.append(Inert("persistent", machine.stack.pop())),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.stack.pop(), "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, place: machine.stack.append(machine.memo[place])),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": _tuple(1), "TUPLE2": _tuple(2), "TUPLE3": _tuple(3),
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "DICT": lambda machine, _: (items := machine.since_mark(), machine.stack.append({}), machine.set_items(items)),
    "FROZENSET": lambda machine, _: (machine.since_mark(), machine.stack.append(Inert("builtins.frozenset"))),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.since_mark(),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.call(machine.stack.pop(), machine.stack.pop())),
    "NEWOBJ_EX": _newobj_ex,
    "OBJ": lambda machine, _: machine.call_items(machine.since_mark()),
    "INST": lambda machine, name: machine.call_items(machine.since_mark(), name),
    "BUILD": lambda machine, _: machine.build(machine.stack.pop()),
}
