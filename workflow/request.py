"""What the command line asked for, on its way to the Snakefile, which every job on a cluster reads anew."""
import json

from workflow.audit import ABOUT_MODEL, plan_audit, read_settings
from workflow.matrix import read_matrix
from workflow.plan import plan


def pack(request):
    """A dict of plain values as one word without special characters for YAML or a shell."""
    return "x" + json.dumps(request).encode().hex()


def unpack(word):
    """The dict that `pack` was given."""
    return json.loads(bytes.fromhex(word.removeprefix("x")))


def read_plan(request):
    """The Plan of {"task": "matrix", "matrix", "data_dir"}, or of {"task": "audit", "checkpoint", "images", "settings",
    "output_dir"}.

    The latter may have ABOUT_MODEL too. Raises UserError.
    """
    if request["task"] == "matrix":
        matrix = read_matrix(request["matrix"])
        if request.get("data_dir"):
            matrix["data"] = {**(matrix.get("data") or {}), "data_dir": request["data_dir"]}
        return plan(matrix)
    return plan_audit(request["checkpoint"], request["images"], read_settings(request["settings"]),
                      request["output_dir"], {name: request.get(name) for name in ABOUT_MODEL})
