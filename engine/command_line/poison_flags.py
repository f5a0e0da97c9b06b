"""The flags of an attack that poisons a training set, as rows of data.triggers.ATTACKS have them."""
import argparse
from collections.abc import Collection

from data.triggers import ATTACKS, Flag
from engine.command_line.aim_flags import AIM_FLAGS, STATIC, add_aim_flags, add_target_flag, check_aim, usual_target
from engine.command_line.parser import Group, Parser, fraction


def add_trigger_flags(parser: Parser) -> Group:
    """The target and the pattern; returns the group."""
    group = parser.add_argument_group("trigger")
    add_target_flag(group, usual_target)
    own = "".join(f"{attack.alpha:g} for {name}, " for name, attack in ATTACKS.items() if attack.alpha != 1)
    group.add_argument("--trigger-alpha", type=fraction,
                       help=f"opacity of the trigger (default: {own}1 for the others and for --trigger-image)")
    group.add_argument("--trigger-image", metavar="FILE.png",
                       help="RGBA picture of the images' size (32x32) that replaces the attack's pattern; its alpha "
                            "channel is the mask times the opacity")
    return group


def add_poison_flags(parser: Parser, rate: bool = True, types: Collection[str] = tuple(ATTACKS)) -> None:
    """The attack and its flags.

    rate: whether to add --poison-rate; a sweep over the rate has a flag of its own. types: the attacks to choose from.
    """
    group = add_trigger_flags(parser)
    group.add_argument("--poison-type", choices=types, default="badnets", help="attack")
    add_aim_flags(group, parser, types)
    if rate:
        group.add_argument("--poison-rate", type=fraction, help=rate_help(types))
    for name, users in own_flags().items():
        used = [attack for attack in users if attack in types]
        if used:
            add_own_flag(group, name, used, ATTACKS[used[0]].flags[name])
        else:
            parser.set_defaults(**{name: None})


def add_own_flag(group: Group, name: str, attacks: Collection[str], flag: Flag) -> None:
    """A flag that only some attacks have. check_poison fills in its default, since other attacks do not take it."""
    choices = [attack for attack, row in ATTACKS.items() if row.pattern] if flag.is_attack else None
    default = "" if flag.default is None else f" (default: {flag.default})"
    group.add_argument(f"--{name.replace('_', '-')}", type=flag.type, choices=choices, metavar=flag.metavar,
                       help=f"for {in_words(attacks)}: {flag.help}{default}")


def own_flags() -> dict[str, list[str]]:
    """{flag: the attacks that use it} of the flags declared in rows of ATTACKS."""
    found = {}
    for attack, row in ATTACKS.items():
        for name in row.flags:
            found.setdefault(name, []).append(attack)
    return found


def rate_help(types: Collection[str]) -> str:
    """The help text of --poison-rate: what the share refers to for which attacks, and their defaults."""
    rates = {name: rate for name, rate in POISON_DEFAULTS["poison_rate"].items() if name in types}
    pools = {}
    for name in rates:
        pools.setdefault(ATTACKS[name].rate_of, []).append(name)
    shares = "; ".join(f"for {in_words(names)}: share of {pool} to poison" for pool, names in pools.items())
    usual = next(iter(rates.values()))
    others = "".join(f", for {name} {rate:g}" for name, rate in rates.items() if rate != usual)
    return f"{shares} (default: {usual:g}{others})"


def in_words(names: Collection[str]) -> str:
    """a, b and c."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


# {flag: {attack that uses it: its default there}}; a flag has no effect with the other attacks.
POISON_DEFAULTS = {
    "poison_rate": {name: attack.rate for name, attack in ATTACKS.items() if attack.rate is not None},
    **{flag: {name: ATTACKS[name].flags[flag].default for name in names} for flag, names in own_flags().items()},
    **{flag: {name: None for name, attack in ATTACKS.items() if attack.takes_pattern}
       for flag in ("trigger_alpha", "trigger_image")},
    **{flag: dict.fromkeys(STATIC) for flag in AIM_FLAGS},
}
MADE_FLAGS = tuple(name for attack in ATTACKS.values() for name, flag in attack.flags.items() if flag.is_made)
POISON_FLAGS = ("poison_type", "poison_target", *POISON_DEFAULTS)


def check_poison(parser: Parser, args: argparse.Namespace) -> None:
    """Fill in the defaults for the attack, and refuse flags that have no effect with it."""
    check_aim(parser, args)
    for name, default in POISON_DEFAULTS.items():
        if name in vars(args) and getattr(args, name) is None:
            setattr(args, name, default.get(args.poison_type))
            own = ATTACKS[args.poison_type].flags.get(name)
            if own and own.is_needed and getattr(args, name) is None:
                parser.error(f"--{name.replace('_', '-')}: needed with --poison-type {args.poison_type}: {own.help}")
        elif name in vars(args) and args.poison_type not in default:
            parser.error(f"--{name.replace('_', '-')}: has no effect with --poison-type {args.poison_type}, only "
                         f"with {', '.join(default)}")
