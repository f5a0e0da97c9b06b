"""What several tests of the report ask."""
import io
import json

from PIL import Image

from reporting.found import find_runs
from reporting.grade import grade
from reporting.scripts import own_figures, own_titles


def grades(root):
    """{(criterion, figure): Line} of what lies beneath a folder."""
    return {(line.criterion, line.figure): line for line in grade(root, find_runs(root))}


def png(color=(255, 0, 0), size=(40, 20)):
    content = io.BytesIO()
    Image.new("RGB", size, color).save(content, "PNG")
    return content.getvalue()


def share(value, n=10_000):
    """A share as results.json has it, with an interval of a point to either side."""
    return {"value": value, "interval": [max(0, value - 0.01), min(1, value + 0.01)], "n": n}


def missing_figures(folder):
    """The titles of further figures that the catalogue's row of a finished run's script names and its results.json
    lacks."""
    results = json.loads((folder / "results.json").read_text())
    titles = own_titles(results["script"])
    assert titles, f"the row of {results['script']} names no figures"
    return set(titles.values()) - {title for title, _ in own_figures(results["script"], results["method"])}
