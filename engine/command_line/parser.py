"""The suite's argument parser, and the types of its flags."""
import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from engine.catalogue import BY_MODULE
from engine.command_line.command import FLAGS, program_name, running

Group = argparse._ArgumentGroup  # the result of add_argument_group


class Parser(argparse.ArgumentParser):
    """An argument parser whose error is one line on stderr, with exit status 2.

    A default that depends on other flags is a function: parsed flags -> value.
    """

    def __init__(self, docstring: str, **options):
        script = BY_MODULE.get(running())
        options = {"prog": script.command() if script else None, **options}
        super().__init__(description=docstring, formatter_class=HelpFormatter, allow_abbrev=False, **options)

    def parse_args(self, args: Sequence[str] | None = None,
                   namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """The parsed flags; each default that is a function is replaced by its value."""
        return self.settle(super().parse_args(args, namespace))

    def parse_intermixed_args(self, args: Sequence[str] | None = None,
                              namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """The same where words without a flag may stand anywhere between the flags."""
        return self.settle(super().parse_intermixed_args(args, namespace))

    def settle(self, parsed: argparse.Namespace) -> argparse.Namespace:
        """Refuse empty values, and replace each default that is a function by its value."""
        FLAGS[running()] = set(self._option_string_actions)
        for action in self._actions:  # as of "$UNSET" in a shell, which as a path is the current folder
            if action.option_strings and getattr(parsed, action.dest, None) == "":
                self.error(f"{action.option_strings[-1]}: expected a value, got an empty one")
        for name, value in list(vars(parsed).items()):
            if callable(value):
                setattr(parsed, name, value(parsed))
        return parsed

    def given(self, argv: Sequence[str] | None) -> set[str]:
        """The names of the options on the command line `argv` (None: that of the process)."""
        words = {word.partition("=")[0] for word in (sys.argv[1:] if argv is None else argv)}
        return {action.dest for action in self._actions if words.intersection(action.option_strings)}

    def refuse(self, argv: Sequence[str] | None, names: Iterable[str], why: str) -> None:
        """End with an error if the command line gives one of the options `names`, which have no effect there. why:
        "with --x ..."."""
        for name in names:
            if name in self.given(argv):
                self.error(f"--{name.replace('_', '-')}: has no effect {why}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{program_name()}: error: {message.removeprefix('argument ')}\n")


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the docstring's lines, and shows defaults if there are any and the help does not say them in words."""

    def _get_help_string(self, action: argparse.Action):
        said = action.help and "(default:" in action.help
        if said or action.default is None or action.default is False or callable(action.default):
            return action.help
        return super()._get_help_string(action)


def number(low: float, high: float, wanted: str, hint: str = "") -> Callable[[str], float]:
    """An argparse type: a float in [low, high]. wanted: that range in words."""
    def parse(text: str):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {text}{hint}")
        return value
    return parse


fraction = number(0, 1, "a fraction in [0, 1]", "; write 5 % as 0.05")
positive = number(1e-12, 1e6, "a number above 0, at most 1e6")
not_negative = number(0, 1e6, "a number from 0 to 1e6")
smoothing = number(0, 0.999, "a share from 0 to below 1")
isolation_rate = number(0, 0.9, "a share from 0 to 0.9, since training continues with the rest")


def ratio(text: str) -> float:
    """An argparse type: a fraction in [0, 1], or a quotient such as 16/255."""
    top, _, bottom = text.partition("/")
    try:
        return fraction(str(float(top) / float(bottom or 1)))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"expected a fraction in [0, 1] such as 16/255, got {text}") from None


def integer(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """An argparse type: an int in [low, high]."""
    def parse(text: str):
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            upper = f" and at most {high}" if value > high else ""
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}{upper}, got {text}")
        return value
    return parse
