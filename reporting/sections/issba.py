"""The encoder of ISSBA, and how much its trigger differs from image to image."""
from reporting.charts import grids_of, pictures_of
from reporting.document import Cell, Section, Table, cell
from reporting.tables import PERCENT, share_cell
from reporting.words import words

ORDER = 110


def section(report):
    own, measured = report.with_method("ISSBA encoder"), report.with_method("sample specificity")
    if not own and not measured:
        return None
    tables = [*([encoders(own)] if own else ()), *([specificity(measured)] if measured else ())]
    return Section("ISSBA", (
        *words("issba"), *tables, *grids_of(own, "encoded_examples.png", "original, encoded, difference"),
        *pictures_of(measured, "specificity.png", "whose residual")))


def encoders(runs):
    columns = ("encoder", "bits", "bit accuracy", "from another's residual", "PSNR, dB", "accepted")
    return Table(columns, tuple(
        (Cell(run.name), cell(run.method.get("bits")), cell(run.method.get("bit_accuracy"), "{:.4f}"),
         cell(run.method.get("bit_accuracy_swapped"), "{:.4f}"), cell(run.method.get("psnr"), PERCENT),
         Cell("yes" if run.method.get("accepted") else "no")) for run in runs))


def specificity(runs):
    return Table(("run", "with this residual", "ASR", "shared energy"), tuple(
        (Cell(run.name), Cell(name), share_cell(share), cell(run.method.get("shared_energy"), "{:.3f}"))
        for run in runs for name, share in (run.method.get("asr_with_residual") or {}).items()),
        "Shared energy: of the mean residual, over the residuals' mean energy; 1 is one fixed picture.")
