"""Predictions of a trained run: for any image files, or for the test split in the format of the challenge."""

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from torch import Tensor

from tinyclf.data.images import read_image as read_image
from tinyclf.data.loader import ImageLoader
from tinyclf.data.locate import locate_dataset
from tinyclf.data.registry import DATASETS
from tinyclf.data.tiny_imagenet import TinyImageNet
from tinyclf.experiments.parent import trained
from tinyclf.experiments.settings import Settings
from tinyclf.models.resnet import build_model
from tinyclf.models.weights import copy_weights
from tinyclf.training.device import supported_precision, this_process
from tinyclf.training.evaluate import predict_logits
from tinyclf.utils.errors import TinyclfError, one_of
from tinyclf.utils.files import atomic_write

TOP = 5


class Predictor:
    """The model of a run, from its checkpoint, with the words of its classes.

    Raises TinyclfError where there is no checkpoint of a finished epoch, with the command that makes one, and where
    the run trained a model that its settings do not build.
    """

    def __init__(self, run: str, dataset: str) -> None:
        one_of("dataset", dataset, DATASETS)
        saved = trained(run, dataset)
        if saved.about["overrides"].get("model", "") not in ("", saved.about["settings"]["model"]):
            raise TinyclfError(
                f"run {run!r} trained a model of its own, {saved.about['recipe']['model']}: build it in Python and "
                f"load {saved.path}"
            )
        self.folder = saved.path.parent
        self.dataset, self.epoch, self.classes = dataset, len(saved.about["history"]), saved.about["classes"]
        self.settings = Settings(**saved.about["settings"])
        self.device = this_process().device
        self.model = build_model(self.settings.model, len(self.classes), stem=self.settings.stem).to(self.device)
        copy_weights(self.model, saved.weights, str(saved.path))

    def loader(self, images: np.ndarray) -> ImageLoader:
        """Batches of uint8 images (N, 64, 64, 3) as the run's model takes them: resized and normalized."""
        size, normalization = self.settings.input_size, self.settings.normalization
        labels = np.zeros(len(images), int)  # that nobody looks at
        batch_size = self.settings.batch_size
        return ImageLoader(images, labels, batch_size, self.device, input_size=size, normalization=normalization)

    def predict_proba(self, images: np.ndarray) -> Tensor:
        """The probability of every class for uint8 images (N, 64, 64, 3): float32 (N, classes), on the CPU."""
        precision = supported_precision(self.settings.precision, self.device)
        return predict_logits(self.model, self.loader(images), "predicting", precision).softmax(1).cpu()

    def most_probable(self, image: np.ndarray) -> list[tuple[float, str, str]]:
        """The TOP most probable classes of one uint8 image (64, 64, 3): probability, wnid and words of each."""
        classes = list(self.classes.items())
        values, labels = self.predict_proba(image[None])[0].topk(min(TOP, len(classes)))
        return [(value, *classes[label]) for value, label in zip(values.tolist(), labels.tolist(), strict=True)]

    def predict_test_split(self, refuse: Callable[[str], None]) -> Path:
        """Write a line `test_0.JPEG n0xxxxxxx` for each image of the test split into a file in the run's folder.

        refuse: called with a message for each file that is no image, which gets no line.
        Raises TinyclfError for a data set that is a part of the classes, as nobody knows which images are of those.
        """
        one_of("dataset of a test split", self.dataset, [name for name in DATASETS if not DATASETS[name].subset_of])
        path, layout = locate_dataset(self.dataset)
        split = TinyImageNet(path, "test", layout=layout)
        images: dict[str, np.ndarray] = {}
        for index, (name, _) in enumerate(split.samples):
            try:
                images[PurePosixPath(name).name] = np.asarray(split.load(index))
            except TinyclfError as error:
                refuse(str(error))
        if not images:
            raise TinyclfError(f"no image can be read among the {len(split):,} of the test split")
        labels = self.predict_proba(np.stack(list(images.values()))).argmax(1).tolist()
        wnids, predictions = list(self.classes), self.folder / "test_predictions.txt"
        rows = {name: wnids[label] for name, label in zip(images, labels, strict=True)}
        names = sorted(rows, key=lambda name: (len(name), name))  # test_2 before test_10
        atomic_write(predictions, "".join(f"{name} {rows[name]}\n" for name in names))
        return predictions


def lines(name: str, classes: Iterable[tuple[float, str, str]]) -> str:
    """The most probable classes of an image as text."""
    return "\n".join([name, *(f"  {value:6.1%}  {wnid}  {words}" for value, wnid, words in classes)])
