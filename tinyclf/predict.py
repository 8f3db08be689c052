"""What a trained run takes images for: any files, or the test split in the format of the Tiny-ImageNet challenge."""

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from tinyclf.loader import Batches
from tinyclf.tiny_imagenet import TinyImageNet
from tinyclf.checks import one_of
from tinyclf.registry import DATASETS, SIDE, WHOLE_DATASETS
from tinyclf.distributed import this_process
from tinyclf.errors import TinyclfError
from tinyclf.evaluate import logits_of
from tinyclf.files import write
from tinyclf.resnet import network
from tinyclf.precision import possible
from tinyclf.cache import source_of
from tinyclf.initial import trained
from tinyclf.settings import Settings

TOP = 5


class Predictor:
    """The model of a run, from its checkpoint, with the words of its classes.

    Raises TinyclfError where there is no checkpoint, or none of a finished epoch, with the command that makes one.
    """

    def __init__(self, run: str, dataset: str) -> None:
        one_of("dataset", dataset, DATASETS)
        saved = trained(run, dataset)
        self.folder = saved.path.parent
        self.dataset, self.epoch, self.classes = dataset, len(saved.about["history"]), saved.about["classes"]
        self.settings = Settings(**saved.about["settings"])
        self.device = this_process().device
        self.model = network(self.settings, len(self.classes)).to(self.device)
        self.model.load_state_dict(saved.weights)

    def probabilities(self, images: np.ndarray) -> Tensor:
        """Of every class for uint8 images (N, 64, 64, 3): float32 (N, classes), on the CPU."""
        batches = Batches(
            images,
            np.zeros(len(images), int),
            self.settings.batch_size,
            self.device,
            input_size=self.settings.input_size,
            normalization=self.settings.normalization,
        )
        return (
            logits_of(self.model, batches, "predicting", possible(self.settings.precision, self.device))
            .softmax(1)
            .cpu()
        )

    def likeliest(self, image: np.ndarray) -> list[tuple[float, str, str]]:
        """The TOP likeliest classes of one uint8 image (64, 64, 3): probability, wnid and words of each."""
        classes = list(self.classes.items())
        values, places = self.probabilities(image[None])[0].topk(min(TOP, len(classes)))
        return [(value, *classes[place]) for value, place in zip(values.tolist(), places.tolist(), strict=True)]

    def test_split(self, refuse: Callable[[str], None]) -> Path:
        """Write the test split's predictions, a line `test_0.JPEG n0xxxxxxx` for each image, into the run's folder.

        Raises TinyclfError for a data set that is a part of the classes, as nobody knows which images are of those.

        refuse: called with a message for each file that is no image, which gets no line.
        """
        one_of("dataset of a test split", self.dataset, WHOLE_DATASETS)
        path, layout = source_of(self.dataset)
        split = TinyImageNet(path, "test", layout=layout)
        images = np.empty((len(split), SIDE, SIDE, 3), np.uint8)
        names: list[str] = []
        for row, (name, _) in enumerate(split.samples):
            try:
                images[len(names)] = np.asarray(split.load(row))
                names.append(PurePosixPath(name).name)
            except TinyclfError as error:
                refuse(str(error))
        if not names:
            raise TinyclfError(f"there is no image that can be read among the {len(split):,} of the test split")
        wnids = list(self.classes)
        found = self.probabilities(images[: len(names)]).argmax(1).tolist()
        rows = sorted(zip(names, found, strict=True), key=lambda row: (len(row[0]), row[0]))  # test_2 before test_10
        predictions = self.folder / "test_predictions.txt"
        write(predictions, "".join(f"{name} {wnids[place]}\n" for name, place in rows))
        return predictions


def read_image(path: Path) -> np.ndarray:
    """An image file as one of the data set: RGB, its middle square resized to 64x64 (bicubic), uint8 (64, 64, 3).

    An image of 64x64 pixels stays as it is. Raises TinyclfError for a file that is no whole image.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits of grey, which PIL would cut off at 255
                upright = Image.fromarray((np.asarray(upright) / 257).astype(np.uint8))
            upright = upright.convert("RGB")
            return np.asarray(ImageOps.fit(upright, (SIDE, SIDE), Image.Resampling.BICUBIC))
    except Exception as error:  # the ways in which PIL gives up on a file are many
        raise TinyclfError(f"{path} is no image that can be read: {error}") from error


def lines(name: str, likeliest: Iterable[tuple[float, str, str]]) -> str:
    """The likeliest classes of an image as text."""
    return "\n".join([name, *(f"  {value:6.1%}  {wnid}  {words}" for value, wnid, words in likeliest)])
