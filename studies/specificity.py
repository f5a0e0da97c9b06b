"""How far a trigger is one picture: what is left of the attack when images swap their triggers.

    python -m studies.specificity --checkpoint output/issba/model_last.th

The residual of an image is what its trigger adds. Counts ASR on the test images with each image's own residual, with
that of another image, with the mean of all, and with a trigger of the same kind that hides another secret, where there
is one; and the energy of the mean residual over the mean energy of the residuals: 1 for one fixed change, near 0 for
changes that have nothing in common. ISSBA's claim (Li et al., 2021) is that nothing but an image's own residual works.
Reads a model and the trigger beside it. Writes into output/issba/specificity/: specificity.png, output.log, config.json
and results.json.
"""
import logging
from dataclasses import replace

import numpy as np

from common.errors import UserError
from data.datasets import ImageSet
from engine import flags
from engine.command import command
from engine.evaluation import evaluate, evaluation_batches, score
from engine.figures import enlarge, image_grid
from engine.inputs import default_folder, find_trigger, load_suspect
from engine.run import Run
from methods.residuals import paste, psnr, shared_energy

LEAVES = ("specificity.png",)
log = logging.getLogger("backdoor")


def swapped(count, seed):
    """A permutation (count,) that leaves nothing in its place: each image's next in a shuffled circle."""
    order, partner = np.random.default_rng(seed).permutation(count), np.empty(count, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def variants(clean, own, trigger, seed):
    """({name: images}, residuals int16): `clean` images with their `own` trigger, and with what stands in for it.

    All images are uint8 (N, 32, 32, 3).
    """
    residuals = own.astype(np.int16) - clean
    made = {"own": own, "another image's": paste(clean, residuals[swapped(len(clean), seed)]),
            "the mean": paste(clean, residuals.mean(axis=0))}
    other = trigger.with_other_secret(seed)
    return made | ({"another secret's": other.stamp(clean)} if other else {}), residuals


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    flags.add_run_flags(parser, "specificity/ beneath the model's run")
    args = parser.parse_args(argv)
    args.output_dir = args.output_dir or default_folder(args.checkpoint, "specificity")
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        suspect, test, _ = load_suspect(args.checkpoint, args.trigger_info, args.dataset, args.data_dir, run.device)
        trigger = find_trigger(args.checkpoint, args.trigger_info)
        if trigger is None:
            raise UserError(f"{args.checkpoint}: no trigger lies beside it; name one with --trigger-info")
        clean, labels = test.clean.images.cpu().numpy(), test.clean.labels.cpu().numpy()
        victims = ImageSet(clean, labels).subset(labels != trigger.target)
        images, residuals = variants(victims.data, test.triggered.images.cpu().numpy(), trigger, args.seed)

        run.begin()
        aimed = replace(victims, targets=np.full(len(victims), trigger.target))
        asr = {name: score(suspect.model, evaluation_batches(replace(aimed, data=data), run.device)).accuracy.as_dict()
               for name, data in images.items()}
        figures = {"psnr": psnr(victims.data, images["own"]), "shared_energy": shared_energy(residuals)}
        for name, share in asr.items():
            log.info("ASR with %s residual: %.4f", name, share["value"])
        log.info("energy of the mean residual over the residuals' mean energy: %.4f; PSNR %.2f dB",
                 figures["shared_energy"], figures["psnr"])
        shown = np.linspace(0, len(victims) - 1, min(8, len(victims))).astype(int)
        rows = [("original", victims.data[shown]), *((name, data[shown]) for name, data in images.items())]
        rows.insert(2, ("residual,\nenlarged", enlarge(residuals[shown])))
        image_grid(run.folder / "specificity.png", rows, [str(label) for label in victims.targets[shown]])
        run.finish(**evaluate(suspect.model, test).figures(), parent=args.checkpoint,
                   width=suspect.model.spec["width"], seed=args.seed,
                   method={"name": "sample specificity", "asr_with_residual": asr, **figures})


if __name__ == "__main__":
    main()
