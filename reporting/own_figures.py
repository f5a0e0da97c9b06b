"""How the figures are shown that a script measures besides ACC and ASR."""
from reporting.document import Cell
from reporting.shares import percent


def figure_cell(title, value):
    """A Cell of a value; of several, one after the other. Shares are in %, and so is a number whose title says so."""
    values = value if isinstance(value, list) else [value]
    texts = [figure_text(title, one, has_interval=len(values) == 1) for one in values]
    return Cell(", ".join(texts), sort_value(values[0]) if len(values) == 1 else None)


def figure_text(title, value, has_interval):
    """One value as text; a share's interval beside it where it stands alone."""
    if value is None:
        return "–"
    if isinstance(value, dict):
        return percent(value) if has_interval else f"{100 * value['value']:.2f}"
    return f"{100 * value:.2f}" if title.endswith("%") else f"{value:.4g}"


def sort_value(value):
    """The number that a table sorts a value by."""
    return value["value"] if isinstance(value, dict) else value


def full_title(title, value):
    """A figure's title with its unit: shares that bring their interval are in %."""
    first = value[0] if isinstance(value, list) and value else value
    return f"{title}, %" if isinstance(first, dict) else title
