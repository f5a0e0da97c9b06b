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
from engine.command_line import flags
from engine.command_line.command import command
from engine.defending.suspect import beneath_model, load_suspect
from engine.drawing.grids import enlarge, image_grid
from engine.measuring.evaluation import evaluate, evaluation_batches, score
from engine.runs.run import Run
from methods.residuals import paste, psnr, shared_energy, swapped

LEAVES = ("specificity.png",)
log = logging.getLogger("backdoor")


def variants(clean, own, trigger, seed):
    """({name: images}, residuals int16): `clean` images with their `own` trigger, and with what stands in for it.

    All images are uint8 (N, 32, 32, 3).
    """
    residuals = own.astype(np.int16) - clean
    made = {"own": own}
    if len(clean) > 1:  # one alone has no other
        made["another image's"] = paste(clean, residuals[swapped(len(clean), seed)])
    made["the mean"] = paste(clean, residuals.mean(axis=0))
    other = trigger.with_other_secret(seed)
    if other is not None:
        made["another secret's"] = other.stamp(clean)
    return made, residuals


def asr_of_each(model, victims, images, wanted, device):
    """{name: ASR, as results.json has it} of `images`, {name: uint8 (N, 32, 32, 3)} made of the ImageSet `victims`.

    wanted: the label that the attacker wants of each, int64 (N,).
    """
    aimed = replace(victims, targets=wanted)
    return {name: score(model, evaluation_batches(replace(aimed, data=data), device)).accuracy.as_dict()
            for name, data in images.items()}


def log_residuals(asr, figures):
    """The figures as lines of the log."""
    for name, share in asr.items():
        log.info("ASR with %s residual: %.4f", name, share["value"])
    log.info("energy of the mean residual over the residuals' mean energy: %.4f; PSNR %.2f dB",
             figures["shared_energy"], figures["psnr"])


def draw(path, victims, images, residuals):
    """A picture of up to eight images, of the residual of each, and of what was made of it."""
    shown = np.linspace(0, len(victims) - 1, min(8, len(victims))).astype(int)
    rows = [("original", victims.data[shown]), *((name, data[shown]) for name, data in images.items())]
    rows.insert(2, ("residual, enlarged", enlarge(residuals[shown])))
    image_grid(path, rows, [str(label) for label in victims.targets[shown]])


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    flags.add_run_flags(parser, beneath_model("specificity"))
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        suspect = load_suspect(args, run)
        trigger, test = suspect.trigger, suspect.test
        if trigger is None:
            raise UserError(f"{args.checkpoint}: no trigger lies beside it; name one with --trigger-info")
        victims = test.clean_images.subset(test.victims)
        images, residuals = variants(victims.data, test.triggered_images.data, trigger, args.seed)

        run.begin(suspect)
        asr = asr_of_each(suspect.model, victims, images, test.triggered_images.targets, run.device)
        figures = {"psnr": psnr(victims.data, images["own"]), "shared_energy": shared_energy(residuals)}
        log_residuals(asr, figures)
        draw(run.folder / "specificity.png", victims, images, residuals)
        run.finish(evaluate(suspect.model, test), model=suspect.model, parent=args.checkpoint, data=suspect.defender,
                   method={"name": "sample specificity", "asr_with_residual": asr, **figures})


if __name__ == "__main__":
    main()
