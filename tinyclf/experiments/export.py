"""The model of a run as a file for other tools: safetensors with torchvision's names, or ONNX. Each file is checked.

Both take images float32 (B, 3, H, W) in 0..1, normalized as the file's metadata say, and give logits (B, classes).
"""

import copy
import io
import json
import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor
from torchvision.models import get_model  # type: ignore[attr-defined] # it is public

from tinyclf.data.registry import NORMALIZATIONS, SIDE
from tinyclf.experiments.predict import OwnModel, Predictor
from tinyclf.models.resnet import INCEPTIONS
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import atomic_write

TOLERANCE = 1e-3  # of a file's logits, in parts of the largest one


def export(run: str, dataset: str, file_format: str, model: OwnModel = None) -> tuple[Path, str]:
    """Write the model of a run into its folder, as `model.safetensors` or `model.onnx`.

    file_format: `safetensors` or `onnx`. Returns the path, and in words by what the file was checked; empty if by
    nothing, for want of onnxruntime. A file whose logits differ from the run's own is refused; one of before stays.
    Raises TinyclfError for that, for a missing package, and as `Predictor` does.
    """
    if file_format == "onnx" and not (find_spec("onnx") and find_spec("onnxscript")):
        install = "pip install onnx onnxscript onnxruntime (the last one checks the file)"
        raise TinyclfError(f"ONNX needs more packages: {install}, or export by --format safetensors alone")
    predictor = Predictor(run, dataset, model)
    predictor.model.cpu().eval()
    pixels = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
    images = torch.cat([batch.images.cpu() for batch in predictor.loader(pixels).epoch()])
    with torch.inference_mode():
        expected = predictor.model(images)
    make = make_onnx if file_format == "onnx" else make_safetensors
    path = predictor.folder / f"model.{file_format}"
    content, logits, checked_by = make(predictor, images, metadata(run, predictor))
    difference = (logits - expected).abs().max() / expected.abs().max()
    if checked_by and not difference < TOLERANCE:
        fault = f"its logits differ from the run's own by {difference:.1%} of the largest one"
        raise TinyclfError(f"{path} was not written: by {checked_by}, {fault}")
    atomic_write(path, content)
    return path, checked_by


def metadata(run: str, predictor: Predictor) -> dict[str, str]:
    """What a user of the file needs to know. Values are text, as both formats want it: names, or JSON."""
    settings = predictor.settings
    mean, deviation = NORMALIZATIONS[settings.normalization] or ((0.0,) * 3, (1.0,) * 3)
    values: dict[str, Any] = {"classes": list(predictor.classes), "words": list(predictor.classes.values())}
    values |= {"input_size": settings.input_size, "mean": mean, "std": deviation, "epoch": predictor.epoch}
    model = type(predictor.model).__name__ if predictor.is_own else settings.model
    names = {"model": model, "stem": settings.stem, "run": run, "dataset": predictor.dataset}
    return names | {name: json.dumps(value) for name, value in values.items()}


def make_safetensors(predictor: Predictor, images: Tensor, about: dict[str, str]) -> tuple[bytes, Tensor, str]:
    """The state dict in torchvision's names as a file; its logits in a new model, and whose model that is."""
    state = predictor.model.state_dict()
    content = save({name: value.contiguous() for name, value in state.items()}, about | {"format": "pt"})
    # torchvision's Inceptions have auxiliary heads, which are for training alone
    if predictor.is_own or about["stem"] != "imagenet" or about["model"] in INCEPTIONS:
        model, by = copy.deepcopy(predictor.model), "the run's own model, as torchvision has none like it"
    else:
        model, by = get_model(about["model"], num_classes=len(predictor.classes)), "torchvision"
    model.load_state_dict(load(content))
    with torch.inference_mode():
        return content, model.eval()(images), by


def make_onnx(predictor: Predictor, images: Tensor, about: dict[str, str]) -> tuple[bytes, Tensor, str]:
    """The model as an ONNX file: input `images` of any batch size, output `logits`.

    With its logits by onnxruntime, in batches of two sizes; without onnxruntime none, and an empty word.
    """
    try:
        # Of torch and onnxscript, about themselves
        with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            program = torch.onnx.export(
                predictor.model,
                (images,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=18,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise TinyclfError(f"torch cannot export a {about['model']} to ONNX: {error}") from error
    assert program is not None  # of dynamo=True
    program.model.metadata_props.update(about)
    content = program.model_proto.SerializeToString()
    if find_spec("onnxruntime") is None:
        return content, torch.empty(()), ""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"images": part.numpy()})[0] for part in (images[:1], images[1:])]
    return content, torch.from_numpy(np.concatenate(parts)), f"onnxruntime {onnxruntime.__version__}"
