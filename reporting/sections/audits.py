"""A row for each audit that lies among other runs."""
from reporting.document import Cell, Section, Table
from reporting.tables import audit_verdict

ORDER = 30


def section(report):
    audits = report.with_method("audit")
    if report.audit or not audits:
        return None
    rows = tuple((Cell(run.name), Cell(str(run.results.get("parent"))), Cell(audit_verdict(run.method)),
                  Cell(" and ".join(run.method["least_lost"]) or "–")) for run in audits)
    return Section("Audits", (Table(("run", "model", "verdict", "least clean accuracy lost"), rows,
                                    "The report of each audit is beside it."),))
