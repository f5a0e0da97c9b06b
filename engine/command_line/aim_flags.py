"""--poison-target, --all-to-all and --sources: of which images an attacker wants which label."""
import argparse
from collections.abc import Callable, Collection, Sequence

from common.errors import UserError
from data.triggers import ATTACKS
from engine.command_line.parser import Group, Parser, integer

STATIC = tuple(name for name, attack in ATTACKS.items() if attack.is_static)
AIM_FLAGS = ("all_to_all", "sources")


def usual_target(args: argparse.Namespace) -> int | None:
    """The default of --poison-target."""
    return None if getattr(args, "all_to_all", None) else 0


def called(label: int, classes: Sequence[str]) -> str:
    """A label with its name, unless that is the number itself, as with digits."""
    return f"{label} ({classes[label]})" if classes[label] != str(label) else str(label)


def check_target(target: int, classes: Sequence[str]) -> None:
    """Raise UserError unless `target` is the number of one of `classes`, names in label order."""
    if target >= len(classes):
        raise UserError(f"--poison-target: expected one of the classes {called(0, classes)} to "
                        f"{called(len(classes) - 1, classes)}, got {target}")


def add_target_flag(group: Group, default: int | Callable[[argparse.Namespace], int | None] = 0) -> None:
    """--poison-target; `default` may be a function of the other flags."""
    group.add_argument("--poison-target", type=integer(0), default=default,
                       help="number of the target class; classes are numbered from 0 in sorted order (default: 0)")


def add_aim_flags(group: Group, parser: Parser, types: Collection[str]) -> None:
    """--all-to-all and --sources, where there is one of `types` on which they have an effect."""
    own = [name for name in types if name in STATIC]
    if not own:
        parser.set_defaults(**dict.fromkeys(AIM_FLAGS))
        return
    group.add_argument("--all-to-all", action="store_const", const=True,
                       help=f"for {', '.join(own)}: the label of a poisoned image becomes the next one, of the last "
                            "class the first, in place of one target; --poison-rate is then a share of all images")
    group.add_argument("--sources", nargs="+", metavar="CLASS",
                       help=f"for {', '.join(own)}: poison images of these classes alone; names, or numbers where no "
                            "class is called so; --poison-rate is then a share of their images")


def check_aim(parser: Parser, args: argparse.Namespace) -> None:
    """An error for --poison-target with --all-to-all."""
    if args.all_to_all and args.poison_target is not None:
        parser.error("--poison-target: has no effect with --all-to-all, where each class has a target of its own")


def variant_of(args: argparse.Namespace) -> str:
    """The attack of parsed flags, as its default folder is called: badnets, badnets-all-to-all, badnets-sources."""
    return "-".join([args.poison_type, *(name.replace("_", "-") for name in AIM_FLAGS if getattr(args, name, None))])


def find_classes(words: Sequence[str] | None, classes: Sequence[str]) -> tuple[int, ...] | None:
    """The sorted labels of the classes that --sources names; `classes` has the names in label order; None for None.

    A word that is a class's name is that class, also where it is another's number. Raises UserError for any other word
    than a name or a number.
    """
    if words is None:
        return None
    found = set()
    for word in map(str, words):
        if word in classes:
            found.add(list(classes).index(word))
        elif word.isascii() and word.isdigit() and int(word[:9]) < len(classes):
            found.add(int(word))
        else:
            shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise UserError(f"--sources {word}: expected one of the classes {shown}, or a number from 0 to "
                            f"{len(classes) - 1}")
    return tuple(sorted(found))


def check_sources(sources: Sequence[int] | None, target: int | None, classes: Sequence[str]) -> None:
    """UserError for a target among the sources."""
    if sources is not None and target in sources:
        raise UserError(f"--sources: class {target} ({classes[target]}) is the target, and its images have the wanted "
                        "label already; leave it out, or give another --poison-target")
