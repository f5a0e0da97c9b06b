"""Whether what JSON files of runs hold is what the report counts on; strangers' files need not."""

SHARES = ("acc", "asr", "robust_acc")
LARGEST = 1e15  # a figure beyond it is none of ours
# What the rows of an audit's lists have; float stands for any number, or null.
AUDIT_ROWS = {"evidence": {"test": str, "points_to": float, "words": str},
              "repaired": {"name": str, "changed": bool, "lost": float, "lost_interval": list, "acc": dict,
                           "asr_of_reversed": dict},
              "rates": {"data": str, "width": str, "test": str, "model_kind": str, "how": str,
                        **dict.fromkeys(("models", "wrong", "undecided", "searches", "searches_wrong"), float)}}


def check_share(name, share):
    """Raise ValueError unless `share` is null or {"value", "interval": [low, high], "n"} with sense in it."""
    if share is None:
        return
    try:
        low, high = share["interval"]
        numbers = (low, share["value"], high, share["n"])
        right = all(map(is_number, numbers)) and None not in numbers and 0 <= low <= share["value"] <= high <= 1
        right = right and share["n"] > 0
    except (TypeError, KeyError, ValueError):
        right = False
    if not right:
        raise ValueError(f"{name} is not a share with its interval")


def is_number(value):
    """Whether a JSON value is a number that can be shown, or null for one that is not known."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST)


def expect(name, right, wanted):
    """Raise ValueError unless `right`."""
    if not right:
        raise ValueError(f"{name}: expected {wanted}")


def check_shares(name, holder):
    """Raise ValueError unless `holder` is null or a dict whose acc, asr and robust_acc are shares."""
    expect(name, holder is None or isinstance(holder, dict), "an object")
    for share in SHARES:
        check_share(f"{name}.{share}", (holder or {}).get(share))


def check_results(results):
    """Raise ValueError unless results.json's dict has what every run's has, in the types that the report counts on."""
    method = results.get("method", {})
    expect("script", isinstance(results.get("script"), str), "a text")
    expect("method", isinstance(method, dict), "an object")
    expect("seconds", is_number(results.get("seconds", "")) and results["seconds"] is not None, "a number")
    for name in ("parent", "dataset", "device"):
        expect(name, isinstance(results.get(name, ""), (str, type(None))), "a text")
    for name in ("width", "epochs", "seed"):
        expect(name, is_number(results.get(name)), "a number")
    check_shares("results", results)
    check_method(method)


def listed(method, name):
    """A method's list, empty if it has none. Raises ValueError for anything else."""
    rows = method.get(name) or []
    expect(name, isinstance(rows, list), "a list")
    return rows


def check_method(method):
    """The same for a method's own figures."""
    expect("name", isinstance(method.get("name", ""), str), "a text")
    for name in ("before", "chosen", "filtered"):
        check_shares(name, method.get(name))
    chosen = method.get("chosen") or {}
    expect("chosen", all(is_number(chosen.get(axis)) for axis in ("threshold", "pruned")), "numbers")
    for name in ("superimpose", "patch_with"):
        expect(name, isinstance(method.get(name, ""), (str, type(None))), "a text")
    expect("targets", all(map(is_number, listed(method, "targets"))), "numbers")
    for name in ("frr", "far", "precision", "recall"):
        check_share(name, method.get(name))
    for name in ("poisoned", "auroc", "overlays", "isolated", "bits", "bit_accuracy", "bit_accuracy_swapped", "psnr",
                 "shared_energy"):
        expect(name, is_number(method.get(name)), "a number")
    for name in ("mean_entropy", "asr_with_residual"):
        expect(name, isinstance(method.get(name, {}), dict), "an object")
    expect("mean_entropy", all(map(is_number, method.get("mean_entropy", {}).values())), "numbers")
    for name, share in method.get("asr_with_residual", {}).items():
        check_share(name, share)
    for name in ("sweep", "labels"):
        expect(name, all(isinstance(row, dict) for row in listed(method, name)), "a list of objects")
    for row in listed(method, "sweep"):
        check_shares("sweep", row)
        expect("sweep", all(is_number(row.get(axis)) for axis in ("threshold", "pruned")), "numbers to sweep over")
    if method.get("name") == "audit":
        check_audit(method)
    for label in listed(method, "labels"):
        expect("labels", all(is_number(label.get(name)) for name in ("label", "flagged_in", "seeds")), "numbers")
        for name in ("norm", "index"):
            pair = label.get(name)
            expect(name, pair is None or (isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair))),
                   "two numbers")


def check_audit(method):
    """The same for the figures of audit_model.py."""
    expect("verdict", isinstance(method.get("verdict"), str), "a text")
    for name in ("targets", "target_classes", "evidence", "repaired", "least_lost"):
        expect(name, isinstance(method.get(name), list), "a list")
    for name in ("missing", "least_lost", "target_classes"):
        expect(name, all(isinstance(text, str) for text in listed(method, name)), "a list of texts")
    for name, kinds in AUDIT_ROWS.items():
        for row in listed(method, name):
            right = isinstance(row, dict) and all(
                is_number(row.get(key, "")) if kind is float else isinstance(row.get(key), kind)
                for key, kind in kinds.items())
            expect(name, right, f"objects with {', '.join(kinds)}")
    for row in listed(method, "repaired"):
        check_share("acc", row["acc"])
        low_high = row["lost_interval"]
        expect("lost_interval", len(low_high) == 2 and all(map(is_number, low_high)) and None not in low_high,
               "two numbers")
        for share in row["asr_of_reversed"].values():
            check_share("asr_of_reversed", share)
        expect("repaired", row["lost"] is not None and row["acc"] is not None, "figures")
    for row in listed(method, "rates"):
        expect("rates", None not in row.values() and 0 <= row["wrong"] <= row["models"], "figures")
        expect("rates", 1 <= row["models"] < 1e6, "figures that can be")


def check_config(config):
    """Raise ValueError unless config.json's dict has the arguments, in the types that the report counts on."""
    arguments = config.get("arguments")
    expect("arguments", isinstance(arguments, dict), "an object")
    expect("script", isinstance(config.get("script", ""), str), "a text")
    for name in ("poison_type", "pruning_by"):
        expect(name, isinstance(arguments.get(name, ""), (str, type(None))), "a text")
    for name in ("epochs", "anp_alpha", "nb_iter", "max_drop"):
        expect(name, is_number(arguments.get(name)), "a number")
