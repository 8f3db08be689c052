"""Predictions of a trained run: for any image files, or for the test split in the format of the challenge."""

import os
import pkgutil
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from torch import Tensor, nn

from tinyclf.data.cache import PackedSplit
from tinyclf.data.loader import ImageLoader
from tinyclf.data.locate import locate_dataset
from tinyclf.data.registry import WHOLE_DATASETS
from tinyclf.data.tiny_imagenet import TinyImageNet
from tinyclf.experiments import recipe
from tinyclf.experiments.parent import trained
from tinyclf.experiments.settings import Settings
from tinyclf.models.resnet import build_model
from tinyclf.models.weights import copy_weights
from tinyclf.training.device import supported_precision, this_process
from tinyclf.training.evaluate import predict_logits
from tinyclf.utils.errors import TinyclfError, UsageError, one_of
from tinyclf.utils.files import atomic_write

OwnModel = Callable[[int], nn.Module] | nn.Module | None
TOP = 5


class Predictor:
    """The model of a run, from its checkpoint, with the words of its classes.

    model: of a run of own code, the model itself, or the function that makes it for a number of classes. Raises
    TinyclfError where there is no checkpoint of a finished epoch, with the command that makes one, and where the run
    trained a model that its settings do not build, and none is given.
    """

    def __init__(self, run: str, dataset: str, model: OwnModel = None) -> None:
        saved = trained(run, dataset)
        about, self.settings = saved.about, Settings(**saved.about["settings"])
        self.folder, self.device = saved.path.parent, this_process().device
        self.dataset, self.epoch, self.classes = dataset, len(about["history"]), about["classes"]
        self.is_own = model is not None
        if model is None:
            if about["overrides"].get("model", "") not in ("", self.settings.model):
                fault = f"run {run!r} trained a model of its own, {about['recipe']['model']}"
                how = "by --model MODULE:FUNCTION, or in Python hand it in: Predictor(run, dataset, model)"
                raise TinyclfError(f"{fault}: name the function that makes it, {how}")
            model = partial(build_model, self.settings.model, stem=self.settings.stem)
        try:
            self.model = (model if isinstance(model, nn.Module) else model(len(self.classes))).to(self.device)
        except (TypeError, AttributeError) as error:
            raise TinyclfError(f"model: expected a model, or a function of the number of classes: {error}") from error
        copy_weights(self.model, saved.weights, str(saved.path))

    def loader(self, images: np.ndarray) -> ImageLoader:
        """Batches of uint8 images (N, 64, 64, 3) as the run's model takes them: resized and normalized."""
        split, settings = PackedSplit(images, np.zeros(len(images), int)), self.settings  # nobody looks at labels
        return recipe.loader(split, settings, settings.batch_size, device=self.device, input_size=settings.input_size)

    def predict_proba(self, images: np.ndarray) -> Tensor:
        """The probability of every class for uint8 images (N, 64, 64, 3): float32 (N, classes), on the CPU."""
        precision = supported_precision(self.settings.precision, self.device)
        return predict_logits(self.model, self.loader(images), "predicting", precision).softmax(1).cpu()

    def most_probable(self, image: np.ndarray) -> list[tuple[float, str, str]]:
        """The TOP most probable classes of one uint8 image (64, 64, 3): probability, wnid and words of each."""
        classes = list(self.classes.items())
        values, labels = self.predict_proba(image[None])[0].topk(min(TOP, len(classes)))
        return [(value, *classes[label]) for value, label in zip(values.tolist(), labels.tolist(), strict=True)]

    def predict_test_split(self) -> Path:
        """Write a line `test_0.JPEG n0xxxxxxx` for each image of the test split into a file in the run's folder.

        Raises TinyclfError for files that are no images, and for a data set that is a part of the classes, as nobody
        knows which images are of those.
        """
        one_of("dataset of a test split", self.dataset, WHOLE_DATASETS)
        path, layout = locate_dataset(self.dataset)
        split = TinyImageNet(path, "test", layout=layout)
        names = [PurePosixPath(name).name for name, _ in split.samples]
        labels = self.predict_proba(np.stack(list(map(np.asarray, split.decoded("reading"))))).argmax(1).tolist()
        wnids, predictions = list(self.classes), self.folder / "test_predictions.txt"
        rows = sorted(zip(names, labels, strict=True), key=lambda row: (len(row[0]), row))  # test_2 before test_10
        atomic_write(predictions, "".join(f"{name} {wnids[label]}\n" for name, label in rows))
        return predictions


def load_function(name: str) -> OwnModel:
    """The function `module:function`, of a module in the working folder or installed; None for an empty name."""
    sys.path[:0] = [os.getcwd()] * (bool(name) and os.getcwd() not in sys.path)
    try:
        if not name:
            return None
        found = pkgutil.resolve_name(name)
        if not (":" in name and callable(found)):
            raise ValueError("that is no function")
        by_name = str(getattr(found, "__module__", "")).startswith("torchvision.")  # first they take weights
        return (lambda classes: found(num_classes=classes)) if by_name else found
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--model {name}: expected MODULE:FUNCTION of a file in {os.getcwd()} ({error})") from error


def lines(name: str, classes: Iterable[tuple[float, str, str]]) -> str:
    """The most probable classes of an image as text."""
    told = [f"  {value:6.1%}  {wnid}" + f"  {words}" * (words != wnid) for value, wnid, words in classes]
    return "\n".join([name, *told])
