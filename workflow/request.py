"""What the command line asked for, on its way to the Snakefile, which every job on a cluster reads anew."""
import json

from workflow.audit import ABOUT_MODEL, plan_audit, read_settings
from workflow.plan import plan, read_matrix


def pack(request):
    """A dict of plain values as one word without special characters for YAML or a shell."""
    return "x" + json.dumps(request).encode().hex()


def unpack(word):
    """The dict that `pack` was given."""
    return json.loads(bytes.fromhex(word.removeprefix("x")))


def read_plan(request):
    """The Plan of {"task": "matrix", "matrix"} or {"task": "audit", "checkpoint", "images", "settings", "output_dir"}.

    The latter may have ABOUT_MODEL too. Raises UserError.
    """
    if request["task"] == "matrix":
        return plan(read_matrix(request["matrix"]))
    return plan_audit(request["checkpoint"], request["images"], read_settings(request["settings"]),
                      request["output_dir"], {name: request.get(name) for name in ABOUT_MODEL})
