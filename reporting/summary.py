"""What a run left, in a table: `python -m reporting.summary output/badnets [output/blend ...]`."""
from pathlib import Path

from common.errors import UserError
from common.untrusted import read_object
from engine.command_line import flags
from engine.command_line.command import command
from reporting.own_figures import figure_cell, full_title
from reporting.scripts import own_figures, script_name

SHARES = (("ACC", "acc"), ("ASR", "asr"), ("ASR, others", "asr_other_classes"), ("robust ACC", "robust_acc"),
          ("FRR", "frr"), ("FAR", "far"))
EXPLAINED = {
    "output.log": "the arguments, then one line an epoch",
    "metrics.jsonl": "the same figures as JSON, one line an epoch",
    "config.json": "arguments, versions, device, seed, commit",
    "results.json": "the final figures with their intervals",
    "model_init.th": "the weights before training",
    "model_last.th": "the weights after it",
    "trigger_info.th": "the trigger, for the defenses",
    "poisoned_examples.png": "originals and their poisoned versions",
    "curves.png": "ACC and ASR over epochs",
    "losses.csv": "losses of clean and poisoned training images",
    "losses.png": "the same as curves",
    "data.npy": "the training set's images",
    "label.npy": "its labels",
    "backdoor_list.npy": "indices of the changed ones",
    "trigger.npz": "the trigger, as the set's readers take it",
    "manifest.json": "what made the set, and a hash of the images it was made from",
    "clean_label_examples.png": "originals, perturbed and stamped",
    "collision_examples.png": "originals, changes, results and goals",
    "patch.png": "the trigger's patch (RGBA)",
    "patch_examples.png": "images with it",
    "encoder.th": "the weights of the encoder",
    "encoded_examples.png": "what it does to images",
    "model_student.th": "the weights of the student",
    "mask_values.txt": "a mask for each neuron",
    "pruning_by_threshold.txt": "ACC and ASR at each threshold",
    "pruning_by_threshold.png": "the same as curves",
    "pruning_by_number.txt": "ACC and ASR for each number of neurons pruned",
    "pruning_by_number.png": "the same as curves",
    "pruning_curve.csv": "ACC and ASR for each number of channels pruned",
    "pruning_curve.png": "the same as curves",
    "masks.csv": "the mask of every channel",
    "teacher.th": "the teacher's weights, which fine-tuning alone made",
    "neuron_noise.csv": "errors against the size of the noise",
    "neuron_noise.png": "the same as curves",
    "specificity.png": "one image with several residuals",
    "witnesses.csv": "each witness's statistic and p-value",
    "repaired.csv": "ACC and the reversed trigger's ASR after each repair",
    "channels.csv": "the bound of every channel, and whether it was closed",
    "second.th": "the weights at the curve's other end",
    "curve.csv": "ACC and ASR along the curve",
    "curve.png": "the same as curves",
    "model_clean.th": "the weights before anything was poisoned",
    "margins.csv": "the margin that each class reached",
    "margins.png": "the same as bars",
    "norms.csv": "norm and anomaly index of every label and seed",
    "norms.png": "the norms as bars",
    "reversed_triggers.png": "the reversed triggers, and the true one",
    "isolated.npy": "indices of the isolated training images",
    "suspected.npy": "indices of the suspected training images, for --leave-out",
    "classes.csv": "what was found in each class",
    "model_filtered.th": "the weights before unlearning",
    "strip.json": "the calibration, which --images screens by",
    "overlays.npy": "the clean images that are laid over others",
    "verdicts.csv": "entropy and verdict of every inspected image",
    "frr_sweep.csv": "FAR for other FRRs",
    "frr_sweep.png": "the same as curves",
    "entropy.png": "entropies of clean and triggered images",
    "resume.th": "what --resume goes on from",
}


def summary(folder):
    """Text lines: the run's figures with their 95 % intervals, then its files.

    Raises UserError where the run is not finished or its results.json is damaged.
    """
    from reporting.schema import check_results
    path = Path(folder) / "results.json"
    try:
        results = read_object(path)
        check_results(results)
    except FileNotFoundError:
        raise UserError(f"{folder}: no finished run (no results.json)") from None
    except ValueError as error:
        raise UserError(f"{path}: not a result: {error}") from None
    return [heading(folder, results), *share_lines(results), *own_lines(results), *file_lines(folder)]


def heading(folder, results):
    """What was run, on what, and for how long, as far as results.json says."""
    parts = [results["script"]]
    parts += [f"on {results['dataset']}"] if results.get("dataset") else []
    device = f" on {results['device']}" if results.get("device") else ""
    return f"{folder}: {' '.join(parts)}, {results['seconds']:.0f} s{device}"


def share_lines(results):
    """A line for each share that the run measured."""
    for name, key in SHARES:
        share = results.get(key) or results.get("method", {}).get(key)
        if share:
            low, high = share["interval"]
            yield (f"  {name:<12}{100 * share['value']:6.2f} %   [{100 * low:.2f}, {100 * high:.2f}]   "
                   f"of {share['n']} images")


def own_lines(results):
    """A line for each further figure that the script's row in the catalogue names."""
    for title, value in own_figures(script_name(results["script"]), results.get("method", {})):
        yield f"  {full_title(title, value)}: {figure_cell(title, value).text}"


def file_lines(folder):
    lines = []
    for path in sorted(Path(folder).iterdir()):
        if path.is_file() and not path.name.startswith("."):
            size = f"{path.stat().st_size / 1000:.1f} kB"
            lines.append(f"  {path.name:<24}{size:>12}   {EXPLAINED.get(path.name, '')}".rstrip())
    return lines


@command
def main(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("folders", nargs="+", help="folders of finished runs")
    for folder in parser.parse_args(argv).folders:
        print("\n".join(summary(folder)))


if __name__ == "__main__":
    main()
