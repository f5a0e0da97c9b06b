"""Every attack under every defense."""
from reporting.charts import attack_map
from reporting.document import Section
from reporting.tables import effect_table
from reporting.words import words

ORDER = 50


def section(report):
    found = report.effects
    if not found:
        return None
    return Section("Attacks against defenses", (
        *words("der"), *attack_map(found), effect_table(
            found, "Means over runs that differ in their seeds alone, and the lowest and highest of them. DER compares "
                   "each run with its own model. Seconds are a run's whole time.")))
