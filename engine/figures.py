"""The pictures that runs leave."""
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from data.files import whole_file  # noqa: E402


def write_figure(path, figure):
    """Write a matplotlib figure as PNG, whole or not at all, and close it."""
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=150)
    plt.close(figure)


def image_grid(path, rows, titles):
    """Rows of images, uint8 (K, 32, 32, 3) each, under one another: `rows` is [(label, images)], titles K texts."""
    columns = len(titles)
    figure, axes = plt.subplots(len(rows), columns, figsize=(1.25 * columns + 0.9, 1.3 * len(rows) + 0.3),
                                squeeze=False, layout="constrained")
    for line, (label, images) in zip(axes, rows, strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(label, fontsize=9)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    write_figure(path, figure)


def training_curves(path, metrics, title):
    """ACC and ASR over epochs; `metrics` is the rows of metrics.jsonl."""
    epochs = [row["epoch"] for row in metrics]
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for key, label, style in (("clean_acc", "ACC", "o-"), ("poison_acc", "ASR", "s-")):
        axis.plot(epochs, [100 * row[key] for row in metrics], style, markersize=3.5, label=label)
    for before, after in zip(metrics, metrics[1:], strict=False):
        if after["lr"] != before["lr"]:
            axis.axvline((before["epoch"] + after["epoch"]) / 2, color="0.8", linewidth=1, zorder=0)
            axis.text(after["epoch"] - 0.4, 2, f"lr {after['lr']:g}", fontsize=7, color="0.4")
    axis.set(xlabel="epoch", ylabel="% of test images", ylim=(-2, 102), title=title)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.25)
    axis.legend(loc="center right")
    write_figure(path, figure)
