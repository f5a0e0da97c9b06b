"""Where a data set may be downloaded to: never among images of the user's own."""
from difflib import get_close_matches
from pathlib import Path

from common.errors import UserError
from common.untrusted.images import is_hidden
from data.image_folder import SPLITS, is_sorted_into_classes
from data.sources import SOURCES

LIKE_SPLITS = (*SPLITS, "val", "valid", "validation", "training", "testing")  # in lower case


def check_folder(dataset: str, data_dir: str | Path) -> None:
    """UserError unless a data set lies in the folder or may be downloaded there: it is empty, or the default, data.

    Beside the data set may lie other things, but no folders of images that the user may mean.
    """
    path, source = Path(data_dir), SOURCES[dataset]
    if is_sorted_into_classes(path):
        raise UserError(f"--data-dir {data_dir}: holds classes but neither train/ nor test/: enough for a defense, not "
                        "for training")
    is_default = path.resolve() in (Path("data").resolve(), Path(__file__).resolve().parents[1])
    if not path.is_dir():
        if is_default and not path.exists():
            return
        beside = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, beside, 1, 0.8)
        raise UserError(f"--data-dir {data_dir}: no such folder; " + (
            f"is {path.parent / near[0]} meant?" if near else f"make it first to have {source.title} downloaded there"))
    found = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in path.iterdir()
                   if not is_hidden(entry.name) and entry.name not in (*source.places, *source.archives))
    is_meant = any(name.rstrip("/").lower() in LIKE_SPLITS and name.endswith("/") for name in found)
    if any((path / name).exists() for name in source.archives):  # beside which other files, such as archives, may lie
        found = [name for name in found if name.endswith("/")]
    if found and (is_meant or not (is_default or source.is_in(path))):
        raise UserError(f"--data-dir {data_dir}: expected {layouts(dataset)}; found {in_short(found)}"
                        f"{hint(dataset, path)}")


def layouts(dataset: str) -> str:
    """What --data-dir may hold, in words."""
    source = SOURCES[dataset]
    own = f"{source.title}'s {source.places[0]}"
    return ("train/<class>/* and test/<class>/*, for a defense <class>/*, or "
            f"{own}{'' if '.' in own else '/'}, which is downloaded to an empty folder")


def in_short(names: list[str]) -> str:
    """The first four of some names, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def hint(dataset: str, folder: Path) -> str:
    """The flag for another data set than `dataset` that lies in a folder, in words; "" for none."""
    name = next((name for name, source in SOURCES.items() if name != dataset and source.is_in(folder)), None)
    return f" (it has {SOURCES[name].title}: --dataset {name})" if name else ""
