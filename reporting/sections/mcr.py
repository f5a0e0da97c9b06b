"""Mode connectivity repair: what lies between two models."""
from reporting.charts import pictures_of
from reporting.document import Section, Text
from reporting.tables import conditions
from reporting.words import words

ORDER = 85


def section(report):
    own = report.with_method("MCR")
    if not own:
        return None
    return Section("Mode connectivity repair", (
        *words("mcr"), Text(conditions(own)), *pictures_of(own, "curve.png", "along the curve")))
