"""Shares with their intervals, as results.json and logs have them and as pages show them."""
from engine.measuring.scores import Proportion


def measured_share(share):
    """A share of results.json with its interval computed anew; None for null."""
    return share and logged_share(share["value"], int(share["n"]))


def logged_share(value, n):
    """A share with the 95 % Wilson interval that `n` images have; None if the value is nan."""
    if value != value:
        return None
    return {**Proportion(round(value * n), n).as_dict(), "value": value}  # a log has four decimals


def percent(share):
    """A share as text: 99.98 [99.92, 99.99]; not known: a dash."""
    if not share:
        return "–"
    low, high = share["interval"]
    return f"{100 * share['value']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
