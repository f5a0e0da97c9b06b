"""Fine-Pruning and its two halves."""
from reporting.charts import pictures_of
from reporting.document import Section, Text
from reporting.groups import NONE
from reporting.tables import conditions, effect_table
from reporting.words import words

KINDS = ("Fine-Pruning", "fine-tuning", "pruning")

ORDER = 80


def section(report):
    own = report.with_method(*KINDS)
    if not own:
        return None
    repaired = [effect for effect in report.effects if effect.kind.split(" after ")[0] in KINDS]
    attacked = {effect.attack for effect in repaired}
    shown = [effect for effect in report.effects
             if effect in repaired or (effect.kind == NONE and effect.attack in attacked)]
    return Section("Fine-Pruning", (
        *words("fine_pruning"), Text(conditions(own)), effect_table(shown),
        *pictures_of(own, "pruning_curve.png", "over channels pruned")))
