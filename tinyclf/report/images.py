"""Images for the pages: samples of a data set, a model's mistakes, an image before and after resizing."""

from typing import TYPE_CHECKING

import numpy as np
from IPython.display import HTML

from tinyclf.experiments.record import Record, read_table
from tinyclf.report.figures import Described, first_word, styled
from tinyclf.report.format import percent
from tinyclf.report.html import gallery
from tinyclf.utils.lazy import plt

if TYPE_CHECKING:  # these import torch
    from tinyclf.data.cache import Packed
    from tinyclf.data.tiny_imagenet import TinyImageNet


def samples(split: "TinyImageNet", count: int = 12) -> HTML:
    """One image each of `count` classes spread over all, with their words and bounding boxes."""
    first = {target: index for index, target in reversed(list(enumerate(split.targets)))}
    chosen = np.linspace(0, len(split.classes) - 1, min(count, len(split.classes))).round().astype(int)
    words = [first_word(split.class_names[target]) for target in chosen]
    return gallery([outlined(split, first[target]) for target in chosen], words)


def of_class(split: "TinyImageNet", target: int, count: int = 12) -> HTML:
    """The first images of one class, with the names of their files and their bounding boxes."""
    rows = [row for row, label in enumerate(split.targets) if label == target][:count]
    return gallery([outlined(split, row) for row in rows], [split.samples[row][0].rpartition("/")[2] for row in rows])


def outlined(split: "TinyImageNet", row: int) -> np.ndarray:
    """An image with its bounding box in white, uint8 (64, 64, 3)."""
    assert split.boxes is not None  # as only test has none
    pixels = np.array(split.load(row))
    left, top, right, bottom = (min(int(edge), len(pixels) - 1) for edge in split.boxes[row])  # some end a pixel beyond
    pixels[[top, bottom], left : right + 1] = pixels[top : bottom + 1, [left, right]] = 255
    return pixels


def mistakes(record: Record, data: "Packed", count: int = 12, first: int = 0) -> HTML:
    """Mistakes of a run's model on the validation images of `data`: true and predicted words, and the confidence.

    The most confident come first. first: how many of them are left out.
    """
    table = read_table(record, "mistakes.csv")[first : first + count]
    words = dict(zip(data.classes, map(first_word, data.class_names), strict=True))
    texts = [
        f"{words[row['wnid']]} → {words[row['predicted']]}, {percent(row['confidence'], 0)}"
        for _, row in table.iterrows()
    ]
    return gallery([data.val.images[row] for row in table["image"]], texts)


@styled
def before_and_after(image: np.ndarray, enlarged: np.ndarray) -> Described:
    """An image and the same resized, uint8 (H, W, 3), to scale."""
    sizes = [pixels.shape[0] for pixels in (image, enlarged)]
    figure, panels = plt.subplots(1, 2, figsize=(6.5, 4.5), width_ratios=sizes)
    for axes, pixels, size in zip(panels, (image, enlarged), sizes, strict=True):
        axes.imshow(pixels, interpolation="none")  # the browser enlarges, not the file
        axes.set_title(f"{size}x{size}")
        axes.set_anchor("N")
        axes.axis("off")
    plt.close(figure)
    text = "An image before and after it was resized from {0}x{0} to {1}x{1} pixels, to scale.".format(*sizes)
    return Described(figure, text)
