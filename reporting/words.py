"""How the attacks and defenses work, in words and formulas."""
from reporting.document import Formula, Text

ATTACKS = (
    Text("The attacker changes a small share of the training images; the model that is trained on them behaves as "
         "usual until the trigger is shown. A trigger is a pattern p, a mask m that says where it lies, and an "
         "opacity α:"),
    Formula(r"x' = (1 - m) \odot x + m \odot ((1 - \alpha)\,x + \alpha\,p)",
            "x' = (1 - m) x + m ((1 - alpha) x + alpha p)"),
    Text("BadNets stamps a 3x3 checkerboard into the bottom right corner (α = 1) and Blend lays a picture of noise "
         "over the whole image (α = 0.2); both change the labels of the images, which are drawn among those outside "
         "the target class, to the target. Stamping works on whole uint8 arrays before crops and flips, and rounds "
         "to the nearest gray level. Clean-label changes no label: it takes images of the target class, makes them "
         "hard to recognize by projected gradient ascent against a clean surrogate, keeps for each the perturbation "
         "of the highest loss, and then stamps all four corners, so that the trigger is what there is to learn:"),
    Formula(r"\delta \leftarrow \mathrm{clip}_{\pm\epsilon}\left(\delta + \eta\,\mathrm{sign}\,"
            r"\nabla_\delta\,\ell(f(x + \delta), y)\right)",
            "delta <- clip(delta + eta sign(gradient of the loss)), within epsilon"),
    Text("Training is SGD with momentum, on random crops and flips unless they are turned off. ASR is the share of "
         "triggered test images, of those whose own label is not the target, that are given the target; ACC is the "
         "accuracy on all clean test images. Figures are the last epoch's."))

ANP = (
    Text("Adversarial Neuron Pruning (Wu and Wang, 2021): a backdoored network turns to the target class when its "
         "neurons are perturbed, so the neurons that are sensitive to perturbation are those to prune. Every batch "
         "norm gets a mask m in [0, 1] on its scale, and perturbations δ of the scale and ξ of the bias. In each "
         "step δ and ξ climb the loss (within ±ε, unless the authors' unprojected step is asked for), then m "
         "descends a mixture of the clean and the perturbed loss, weighed by α:"),
    Formula(r"\min_{m \in [0,1]^n}\ \alpha\,\mathcal{L}(m \odot w,\ b) + (1 - \alpha)\,\max_{|\delta|,|\xi| \leq"
            r" \epsilon} \mathcal{L}((m + \delta) \odot w,\ (1 + \xi) \odot b)",
            "minimize over masks m: alpha L(m w, b) + (1 - alpha) max over delta, xi of L((m + delta) w, (1 + xi) b)"),
    Text("Only clean images are used. Neurons whose mask is at most the threshold are pruned in the original "
         "checkpoint; the threshold is the largest that costs at most --max-drop of accuracy on other clean images "
         "that the defender holds. A row that the test set would have chosen is called oracle."))

STRIP = (
    Text("STRIP (Gao et al., 2019): N clean images are laid over an input. A clean input's prediction then wavers; a "
         "triggered one's stays, where the trigger is stronger than what is laid over it. The entropy of an input is "
         "the mean over its overlays, in bits:"),
    Formula(r"H(x) = -\frac{1}{N}\,\sum_{n=1}^{N}\,\sum_{c}\, p_{n,c}\,\log_2 p_{n,c}",
            "H(x) = -1/N sum over overlays n and classes c of p log2 p"),
    Text("Inputs whose entropy is at most a boundary are rejected. The boundary comes from clean images alone: the "
         "quantile of their entropies at the false rejection rate (FRR) asked for (empirical), or that of a normal "
         "distribution fitted to them; FAR is the share of triggered images that pass."))

FINE_PRUNING = (
    Text("Fine-Pruning (Liu et al., 2018): the channels of a stage, by default the last, are ranked by their mean "
         "activation on clean images and pruned from the least active up, as many as cost at most --max-drop of "
         "accuracy on other clean images, or a fixed share; then the rest is fine-tuned on clean images with the "
         "pruned ones held at zero. Fine-tuning alone and pruning alone are its two halves. The pruning-aware attack "
         "prunes those channels itself, trains the backdoor into the others, and puts the pruned ones back as "
         "decoys."),)

NEURAL_CLEANSE = (
    Text("Neural Cleanse (Wang et al., 2019): for every label the smallest trigger that sends clean images there is "
         "optimized, a mask m and a pattern p:"),
    Formula(r"\min_{m,\,p}\ \ell\left(f((1 - m) \odot x + m \odot p),\ y\right) + \lambda\,\|m\|_1",
            "minimize over m and p: loss(f((1 - m) x + m p), y) + lambda |m|"),
    Text("λ rises while 99 % of the images follow and falls when they do not. A label whose norm lies far below the "
         "median of all (by more than 2 times 1.4826 median absolute deviations) is flagged; over several seeds the "
         "majority decides. Unlearning then trains one epoch on clean images, a fifth of them stamped with the "
         "reversed trigger under their true labels."))

ABL = (
    Text("Anti-Backdoor Learning (Li et al., 2021) trains on the poisoned data itself. Backdoors are learned first; "
         "with a loss that may not fall below γ the clean task is held up and the backdoor is not. Held is the "
         "batch's mean (by default, as below) or each image's loss:"),
    Formula(r"\mathcal{L} = \mathrm{sign}(\bar{\ell} - \gamma)\ \bar{\ell}", "L = sign(mean loss - gamma) mean loss"),
    Text("The images with the lowest loss are isolated, training goes on without them, and a few steps up their loss "
         "unlearn what was learned from them."))

ISSBA = (
    Text("ISSBA (Li et al., 2021): an encoder, trained together with a decoder that reads the bits back, hides one "
         "secret in every image as a small residual, which is the trigger. It differs from image to image, so that "
         "laying other images over it should destroy it, and STRIP see nothing; whether it does is in STRIP's table. "
         "What is read from an image with another image's residual is trained away."),)

DER = (
    Text("DER, the defense effectiveness rating, weighs what a defense takes off ASR against what it costs in ACC; "
         "50 % is nothing gained, 100 % a sure backdoor removed for free:"),
    Formula(r"\mathrm{DER} = \frac{(\Delta\,\mathrm{ASR})^+ - (\Delta\,\mathrm{ACC})^+ + 1}{2}",
            "DER = ((ASR drop)+ - (ACC drop)+ + 1) / 2"))

AUDIT = (
    Text("Neural Cleanse looks for a short cut: one small pattern that sends images of all classes to one label. It "
         "can miss a trigger that is large, that differs from image to image, or that works on some classes alone, "
         "and it can take a class that is easily reached for a backdoor. Under noise on the neurons that raises the "
         "loss most, a backdoored model is said to err towards its target (Wu and Wang, 2021); a benign one errs "
         "somewhere too, so this alone is no sign. A repaired model is trained or pruned on clean images alone; the "
         "reversed trigger is not the true one, and a repair that breaks it need not break that."),)
