"""A row for each audit that lies among other runs."""
from reporting.document import Cell, Section, Table, Text, cell
from reporting.tables import audit_verdict, named_target

ORDER = 30


def section(report):
    if report.audit:
        return None
    blocks = [block for name, show in (("calibrated audit", heard), ("audit", put_together))
              if report.with_method(name) for block in show(report.with_method(name))]
    return Section("Audits", tuple(blocks)) if blocks else None


def heard(runs):
    """The models that studies.audit has judged, and how often such verdicts are wrong."""
    rows = tuple((Cell(run.name), Cell(str(run.results.get("parent"))), Cell(named_target(run.method)),
                  cell(None if run.method.get("doubt") else run.method["combined"], "{:.2g}")) for run in runs)
    yield Table(("run", "model", "verdict", "p-value"), rows,
                "The p-value is that of all witnesses: how often a benign model of the same kind looks so suspicious.")
    said = {}
    for run in runs:
        said.setdefault(run.method.get("doubt") or run.method.get("trust"), []).append(run.name)
    yield from (Text(f"{', '.join(names)}: {words}") for words, names in said.items() if words)


def put_together(runs):
    """The audits with repairs, as one Table."""
    rows = tuple((Cell(run.name), Cell(str(run.results.get("parent"))), Cell(audit_verdict(run.method)),
                  Cell(" and ".join(run.method["least_lost"]) or "–")) for run in runs)
    yield Table(("run", "model", "verdict", "least clean accuracy lost"), rows,
                "The report of each audit is beside it.")
