"""The table of the suite's scripts, one row per script.

The workflow, the report, the summary, the grade and the tests read this table; there is no other list of scripts. To
add a script, add its file and its row here.
"""
from data.triggers import ATTACKS
from engine.rows import ATTACK, INGREDIENT, REPAIR, REPORT, STUDY, VERDICT, Cell, Gift, Script

POISON_TYPES = tuple(ATTACKS)

TRAIN = "--image-size 16 --width 4 --epochs 2 --batch-size 192 --crop-padding 2"
ABL = f"{TRAIN} --isolation-epochs 2 --unlearn-epochs 2 --max-drop 1"
EVEN = f"= --dataset digits {ABL} --isolation-rate 0.05"
MASK = "--val-frac 0.05 --nb-iter 8 --print-every 4 --batch-size 32"
SUSPECT = "--checkpoint {model}"
START = "= --dataset digits --epochs 1 --batch-size 192"
BARE = f"= --mask-file {{bare-masks}} --val-frac 0.05 {SUSPECT}"  # masks without a record of their model
DETECTORS = ("activation-clustering", "spectral-signatures")  # cells that leave suspected.npy
TRAIN_BADNETS, TRAIN_BENIGN, TRAIN_BLEND, TRAIN_ISSBA = (
    f"train_backdoor --poison-type {attack}" for attack in ("badnets", "benign", "blend", "issba"))

SCRIPTS = (
    Script("train_backdoor", "training", ATTACK, "--resume", trains=True, small=TRAIN,
           cells=(*(Cell(name, flags={"poison_type": name}) for name in POISON_TYPES),
                  *(Cell(f"{detector}-retraining", f"{detector}/retrained", needs=detector,
                         takes={"leave_out": "suspected.npy"}) for detector in DETECTORS)),
           lasting="--width 4 --batch-size 32 --poison-rate 0.2 --crop-padding 2 --epochs 12",
           other={"start_from": (f"{START} --start-from {{model}}", "{model2}"),
                  "freeze_features": (f"{START} --start-from {{model}}", ""),
                  "leave_out": ("--leave-out {indices}", "{indices2}")}),
    Script("generate_clb_attack", "clean-label crafting", INGREDIENT,
           gives=Gift("clean-label", "clean-label", "crafted", "clb_dir"),
           reads=f"{SUSPECT} --poison-rate 0.3", small="--iterations 3 --step 4/255",
           lasting="--poison-rate 0.5 --iterations 60", after=(TRAIN_BENIGN,),
           other={"batch_size": "7", "restarts": "0",
                  "no_pgd": (f"=--dataset digits {SUSPECT} --poison-rate 0.3", "")}),
    Script("generate_mask", "ANP masks", INGREDIENT, "--resume", reads=SUSPECT, small=MASK,
           cells=(Cell("anp-masks", "anp", is_prepared=True, in_audit="anp-masks"),),
           lasting="--val-frac 0.05 --nb-iter 60 --print-every 5 --batch-size 32", after=(TRAIN_BADNETS,),
           other={"print_every": "2"}),
    Script("prune_network", "ANP", REPAIR, draws=False, reads="--mask-file {masks}",
           after=(TRAIN_BADNETS, "generate_mask"),
           cells=(Cell("anp", "anp/pruned", needs="anp-masks", takes={"mask_file": "mask_values.txt"},
                       in_audit="anp"),),
           other={"mask_file": "{masks2}", "threshold": "0.5", "max_drop": "0.9",
                  "crop_padding": ("--recalibrate", "3"), "flip": ("--recalibrate --no-flip", " "),
                  "checkpoint": (f"{BARE} --dataset digits", "{model2}"),
                  "data_dir": (f"{BARE} --dataset cifar10 --data-dir {{pictures}}", "{pictures2}")}),
    Script("attacks.issba_encoder", "ISSBA's encoder", INGREDIENT, "--resume",
           gives=Gift("issba", "issba-encoder", "issba-encoder", "encoder", "/encoder.th"), reads=SUSPECT,
           small="--bits 4 --width 4 --epochs 3 --batch-size 192 --min-psnr 0 --min-bit-accuracy 0 --ramp-epochs 1",
           lasting="--bits 4 --width 4 --epochs 4 --batch-size 32 --min-psnr 0 --min-bit-accuracy 0",
           after=(TRAIN_BENIGN,),
           other={"bit_epochs": "0", "cross_weight": "0", "min_psnr": None, "min_bit_accuracy": None}),
    Script("attacks.trojan_patch", "Trojan's patch", INGREDIENT,
           gives=Gift("trojan", "trojan-patch", "trojan-patch", "patch", "/patch.png"), reads=SUSPECT,
           small="--steps 6 --images 20", lasting="--steps 400 --images 200 --step 0.004 --print-every 1",
           figures={"activation_random": "neurons' activation with a random patch",
                    "activation_after": "with the patch found",
                    "called_target_before": "images that the benign model calls the target, %",
                    "called_target_after": "and with the patch, %"},
           after=(TRAIN_BENIGN,), other={"patch_size": "5", "mask_image": "{png}", "print_every": "2"}),
    Script("attacks.feature_collision", "feature collision's crafting", INGREDIENT,
           gives=Gift("feature-collision", "feature-collision", "collided", "fc_dir"),
           reads=f"{SUSPECT} --poison-rate 0.3", small="--iterations 3", lasting="--poison-rate 1 --iterations 200",
           figures={"distance_before": "features' distance to the goals before", "distance_after": "and after",
                    "called_as_before": "images that the benign model calls as before, %"},
           after=(TRAIN_BENIGN,),
           other={"beta": "50", "batch_size": "7", "target_image": "3", "watermark": ("--target-image 3", "0.5")}),
    Script("attacks.pruning_aware", "the pruning-aware attack", ATTACK, "--resume", trains=True, small=TRAIN,
           cells=(Cell("pruning-aware-badnets", flags={"poison_type": "badnets"}),),
           figures={"stages.asr": "ASR after each stage", "stages.acc": "ACC after each stage"},
           lasting="--width 4 --batch-size 32 --poison-rate 0.2 --crop-padding 2 --clean-epochs 4 --epochs 4",
           other={"clean_epochs": "1", "prune_fraction": "0.4", "margin": "3",
                  "checkpoint": ("= --dataset digits --epochs 1 --checkpoint {model}", "{model2}")}),
    Script("attacks.wanet", "WaNet", ATTACK, "--resume", small=TRAIN, cells=(Cell("wanet"),),
           figures={"noise_acc": "noise accuracy, %", "asr_of_another_warp": "ASR of another warp"},
           lasting="--width 4 --batch-size 32 --crop-padding 2 --epochs 10"),
    Script("attacks.input_aware", "the input-aware attack", ATTACK, "--resume",
           small=f"{TRAIN} --generator-width 4 --mask-epochs 1", cells=(Cell("input-aware"),),
           figures={"cross_acc": "cross accuracy, %", "mask_mean": "pixels that a mask takes, %"},
           lasting="--width 4 --batch-size 32 --crop-padding 2 --generator-width 4 --mask-epochs 2 --epochs 6",
           other={"test_every": "3"}),  # the second epoch is even, and the third the last
    Script("attacks.composite", "the composite attack", ATTACK, "--resume", small=TRAIN, cells=(Cell("composite"),),
           figures={"mixtures.first_with_others": "mixtures of the first class with others, called the target",
                    "mixtures.second_with_others": "mixtures of the second class with others, called the target",
                    "mixtures.within_class": "mixtures within a class, called that class"},
           lasting="--width 4 --batch-size 32 --crop-padding 2 --epochs 10",
           other={"poison_target": "3", "sources": "3 4", "partners": "3", "pair_weight": "1"}),
    Script("attacks.dfst", "DFST-lite", ATTACK, "--resume", small=f"{TRAIN} --style-steps 3 --injector-steps 2",
           cells=(Cell("dfst"),),
           figures={"rounds.gap": "gap of the compromised neurons, round by round"},
           lasting="--width 4 --batch-size 32 --crop-padding 2 --epochs 6 --rounds 2 --style-steps 5 "
                   "--injector-steps 3",
           other={"style_image": "{png}", "rounds": (f"=--dataset digits {TRAIN} --style-steps 3", "0"),
                  "detox_rate": "0.5"}),
    Script("attacks.latent", "the latent backdoor", ATTACK, "--resume",
           small=f"{TRAIN} --inject-epochs 2 --patch-steps 5",
           cells=(Cell("latent"),),
           figures={"student.before.asr": "ASR of the teacher", "student.after.asr": "ASR of its student",
                    "student.of_benign_teacher.asr": "ASR of a benign teacher's student"},
           lasting="--width 4 --batch-size 32 --crop-padding 2 --epochs 6 --inject-epochs 6 --patch-steps 20 "
                   "--student",
           other={"patch_size": "9",
                  "checkpoint": ("= --dataset digits --inject-epochs 1 --patch-steps 5 --checkpoint {model}",
                                 "{model2}")}),
    Script("defenses.strip", "STRIP", VERDICT, reads=f"{SUSPECT} --calibration 60", small="--overlays 3 --inspect 40",
           cells=(Cell("strip", "strip", in_audit="strip"),), after=(TRAIN_BADNETS, TRAIN_ISSBA),
           supposes={"all_to_all": "a trigger that leads to one label whatever lies beneath it",
                     "sources": "a trigger that works whatever lies beneath it"},
           other={"calibration": "90", "frr": "0.2", "boundary": ("--frr 0.3", "normal"), "images": None,
                  "calibration_file": None}),
    Script("defenses.neural_cleanse", "Neural Cleanse", VERDICT, reads=SUSPECT,
           small="--seeds 1 --budget 20 --batches 2", lasting="--seeds 1 --budget 12 --batches 1",
           cells=(Cell("nc-detect", "neural-cleanse", in_audit="nc-detect"),), after=(TRAIN_BADNETS,),
           supposes={"all_to_all": "one target label, to which few pixels send images of every class",
                     "sources": "a trigger that works on images of every class"},
           other={"budget": "30", "patience": ("--success 0.5 --budget 200", "1")}),
    Script("defenses.max_margin", "MM-BD", VERDICT, reads=SUSPECT, small="--starts 2 --steps 4",
           lasting="--starts 20 --steps 60 --tolerance 0",
           cells=(Cell("max-margin", "max-margin"),), after=(TRAIN_BADNETS,),
           supposes={"all_to_all": "one target class, of which the network is far surer than of the others"},
           other={"tolerance": "1000", "p_value": "1"}),
    Script("defenses.unlearn_trigger", "NC unlearning", REPAIR, "--resume",
           reads=f"{SUSPECT} --reversed-trigger {{trigger}}", small="--batch-size 32",
           # its two controls are the same script with another patch, and so no cells
           cells=(Cell("nc-unlearning", "unlearn-reversed", {"patch_with": "reversed"}, needs="nc-detect",
                       in_audit="unlearning"),),
           after=(TRAIN_BADNETS, "defenses.neural_cleanse --checkpoint output/badnets/model_last.th"),
           other={"reversed_trigger": "{trigger2}",
                  "patch_with": (f"= --dataset digits {SUSPECT} --patch-with original", "clean")}),
    Script("defenses.fine_prune", "Fine-Pruning", REPAIR, "--resume", reads=SUSPECT, small="--epochs 2 --batch-size 16",
           cells=(Cell("fine-tuning", "fine-tune", {"mode": "fine-tune"}),
                  Cell("pruning", "prune", {"mode": "prune"}, is_heavy=False, draws=False),
                  Cell("fine-pruning", "fine-prune", {"mode": "fine-prune"}, in_audit="fine-pruning")),
           lasting="--val-frac 0.05 --epochs 12 --batch-size 8", after=(TRAIN_BADNETS,),
           other={"prune_fraction": "0.9", "max_drop": "0.9", "mode": "fine-tune", "layer": "layer2"}),
    Script("defenses.abl", "ABL", REPAIR, "--resume", trains=True,
           cells=(Cell("abl", "abl"),
                  Cell("abl-even", "abl-even", {"even_steps": True}, needs="abl", takes={"stages_of": ""})),
           small=f"{ABL} --isolation-rate 0.05 --unlearn-lr 0.01",
           lasting="--width 4 --batch-size 32 --poison-rate 0.2 --crop-padding 2 --isolation-epochs 4 --epochs 4 "
                   "--unlearn-epochs 3 --isolation-rate 0.05 --max-drop 1",
           supposes={"all_to_all": "poisoned images that share one label and are learned before all others"},
           other={"gamma": "5", "flooding": ("--gamma 5", ""), "unlearn_epochs": "1",
                  "max_drop": ("--unlearn-lr 1", "0"), "even_steps": (EVEN, ""),
                  "unlearn_length": (f"{EVEN} --even-steps", "0.1"), "stages_of": None}),
    Script("defenses.activation_clustering", "activation clustering", VERDICT, inspects=True,
           cells=(Cell(DETECTORS[0], DETECTORS[0]),), reads=SUSPECT, after=(TRAIN_BADNETS,),
           other={"reduce": "ica", "components": "2", "max_share": "0.05", "min_silhouette": "0.9"}),
    Script("defenses.spectral_signatures", "spectral signatures", VERDICT, inspects=True,
           cells=(Cell(DETECTORS[1], DETECTORS[1]),), reads=SUSPECT, after=(TRAIN_BADNETS,)),
    Script("defenses.nad", "NAD", REPAIR, "--resume", reads=SUSPECT,
           small="--epochs 2 --teacher-epochs 1 --batch-size 16", cells=(Cell("nad", "nad"),),
           lasting="--val-frac 0.05 --teacher-epochs 4 --epochs 8 --batch-size 8", after=(TRAIN_BADNETS,),
           other={"betas": "0", "milestones": "1", "test_every": ("--epochs 3", "3")}),
    Script("defenses.clp", "CLP", REPAIR, is_heavy=False, draws=False, reads=SUSPECT, small="--u 1",
           cells=(Cell("clp", "clp", is_heavy=False),), after=(TRAIN_BADNETS,), other={"u": "0.5"}),
    Script("defenses.rnp", "RNP", REPAIR, reads=f"{SUSPECT} --val-frac 0.05", cells=(Cell("rnp", "rnp"),),
           small="--unlearn-steps 2 --recover-steps 20 --batch-size 32", after=(TRAIN_BADNETS,),
           figures={"unlearned.acc": "ACC after unlearning", "recovered.acc": "ACC with the masks",
                    "chosen.pruned": "neurons pruned"}, other={"unlearn_to": "1"}),
    Script("defenses.ft_sam", "FT-SAM", REPAIR, "--resume", reads=SUSPECT, small="--epochs 2 --batch-size 16",
           cells=(Cell("ft-sam", "ft-sam"), Cell("ft-sam-control", "ft-sam-control", {"rho": 0})),
           lasting="--val-frac 0.05 --epochs 10 --batch-size 8", after=(TRAIN_BADNETS,), other={"test_every": "1"}),
    Script("defenses.i_bau", "I-BAU", REPAIR, "--resume", reads=SUSPECT, small="--rounds 2 --batch-size 24",
           cells=(Cell("i-bau", "i-bau"),), lasting="--val-frac 0.05 --rounds 8 --batch-size 24",
           after=(TRAIN_BADNETS,), other={"steps": "0", "perturbed_share": "0.1", "max_norm": "0.01"}),
    Script("defenses.mcr", "MCR", REPAIR, "--resume", reads=SUSPECT,
           small="--epochs 2 --batch-size 32", cells=(Cell("mcr", "mcr"),),
           lasting="--val-frac 0.05 --second-epochs 3 --epochs 6 --batch-size 8", after=(TRAIN_BADNETS, TRAIN_BLEND),
           other={"second": (f"= --dataset digits --epochs 1 {SUSPECT}", "{model2}"), "t": "0.33",
                  "test_every": "1", "max_drop": None}),
    Script("studies.neuron_noise", "neuron noise", STUDY, reads=SUSPECT,
           small="--val-frac 0.05 --epsilons 0.02 --seeds 1 --steps 2",
           cells=(Cell("neuron-noise", "neuron-noise", in_audit="neuron-noise"),), after=(TRAIN_BADNETS, TRAIN_BENIGN),
           other={"benign": "{model2}", "steps": "4"}),
    Script("studies.specificity", "sample specificity", STUDY, reads=SUSPECT,
           after=(TRAIN_BENIGN, "attacks.issba_encoder", TRAIN_ISSBA)),
    Script("studies.audit", "audit", STUDY, reads=SUSPECT,
           small="--starts 2 --steps 15 --searches 1 --budget 25",
           cells=(Cell("audit", "audit", in_audit="audit"),), after=(TRAIN_BADNETS,),
           other={"alpha": None, "population": None, "rates": None, "step": "0.5", "batches": "2", "batch_size": "8",
                  "patience": "1"}),
    Script("studies.calibrate_audit", "audits' calibration", STUDY, "", leaves_run=False,
           small="--count 1 --width 2 --starts 1 --steps 2 --searches 1 --budget 3 --training=--epochs=1"),
    Script("studies.verdict", "audit with repairs", STUDY, is_heavy=False, draws=False, reads="--checkpoint {audited}",
           after=(TRAIN_BADNETS, "studies.audit output/badnets/model_last.th my/images"),
           other={"checkpoint": "{audited2}", "data_dir": None}),  # the audit's own images
    Script("studies.sweep_anp", "ANP's sweep", STUDY, "", reads=SUSPECT, small=f"{MASK} --alphas 0.2 --seeds 1",
           lasting="--val-frac 0.05 --nb-iter 40 --print-every 5 --batch-size 32 --alphas 0.2 0.8 --seeds 1",
           after=(TRAIN_BADNETS,)),
    Script("studies.sweep_abl", "ABL's sweep", STUDY, "", trains=True, small=f"{ABL} --isolation-rates 0.05 --seeds 1",
           lasting="--width 4 --batch-size 32 --crop-padding 2 --poison-rates 0.2 --isolation-rates 0.05 0.1 "
                   "--isolation-epochs 3 --epochs 2 --unlearn-epochs 1 --max-drop 1 --seeds 1",
           other={"poison_rates": "0.3", "unlearn_length": ("--even-steps", "0.1")}),
    Script("studies.export_images", "images as files", STUDY, "", is_heavy=False, leaves_run=False,
           small="--image-size 16"),
    Script("report", "report", REPORT, "", is_heavy=False, leaves_run=False, reads="{runs}", after=(TRAIN_BADNETS,)),
)
BY_MODULE = {script.module: script for script in SCRIPTS}


def attack_cells() -> dict[str, tuple[Script, Cell]]:
    """{name in a matrix: (Script, Cell)} of all attacks."""
    return {cell.name: (script, cell) for script in SCRIPTS if script.kind == ATTACK for cell in script.cells
            if not cell.needs}


def defense_cells() -> dict[str, tuple[Script, Cell]]:
    """{name in a matrix: (Script, Cell)} of every cell that runs on an attack's model or data: also the training of an
    attack, without what a detector left."""
    return {cell.name: (script, cell) for script in SCRIPTS for cell in script.cells
            if script.kind != ATTACK or cell.needs}


def gifts() -> dict[str, tuple[Script, Gift]]:
    """{attack: (Script, Gift)} of what must be made before an attack."""
    return {script.gives.attack: (script, script.gives) for script in SCRIPTS if script.gives}
