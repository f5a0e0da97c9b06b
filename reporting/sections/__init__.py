"""The sections of a report, a file each.

A file here has ORDER, by which sections follow one another, and `section(report)`, which makes a Section from the
Material, or None where there is nothing to show. A defense whose results.json has `"method": {"name": "NAD"}` gets a
section by a file that shows `report.with_method("NAD")`.
"""
import pkgutil
from importlib import import_module

from reporting.material import material


def section_files():
    """The modules of this package, in the order of their sections."""
    modules = [import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return sorted(modules, key=lambda module: (module.ORDER, module.__name__))


def write_report(runs, lines, root):
    """All Sections that the runs have something for; `lines` is the grade."""
    report = material(runs, lines, root)
    sections = [module.section(report) for module in section_files()]
    return [section for section in sections if section]
