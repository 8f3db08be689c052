"""Image files decoded: those of Tiny-ImageNet exactly as they are, and any others made like them."""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tinyclf.data.registry import SIDE
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import user_file

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP")  # of PIL's, those that run no other program


def decode(data: bytes) -> Image.Image:
    """A JPEG file's image as `Image.open(...).convert("RGB")` gives it. Raises ValueError unless whole and 64x64."""
    image = _opened(data)
    if image.format not in ("JPEG", "MPO"):
        raise ValueError(f"it is a {image.format} and no JPEG")
    if image.size != (SIDE, SIDE):
        raise ValueError(f"it is {image.width}x{image.height} pixels instead of {SIDE}x{SIDE}")
    # PIL ignores a missing end where someone set ImageFile.LOAD_TRUNCATED_IMAGES, as many notebooks do. The marker of
    # the end must follow the last one of the start of a scan: neither occurs within compressed data.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ValueError("it is cut short")
    try:
        return image.convert("RGB")
    except Exception as error:  # the ways in which PIL gives up on bytes are many
        raise ValueError(f"it is not a whole {image.format} ({error})") from error


def decode_any(data: bytes) -> Image.Image:
    """The middle square of an image of any size, in one of FORMATS, as RGB of 64x64 pixels (bicubic).

    It is turned as its EXIF says, and what is transparent is laid on white. An opaque image of 64x64 pixels stays as it
    is. Raises ValueError for what is no whole image, and for floats and integers of 32 bits, whose range nobody knows.
    """
    image = _opened(data)
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):  # of PNG and PPM, "I" too is 16 bits
        raise ValueError("it has 32 bits, a sign or floating-point numbers: save it with 8 or 16 bits")
    try:
        upright = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits of grey, which PIL would cut off at 255
            upright = Image.fromarray((np.asarray(upright) / 257).round().astype(np.uint8))
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        return ImageOps.fit(upright.convert("RGB"), (SIDE, SIDE), Image.Resampling.BICUBIC)
    except Exception as error:
        raise ValueError(f"it is not a whole {image.format} ({error})") from error


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"it is in none of the formats {', '.join(FORMATS)}") from None
    except Exception as error:
        raise ValueError(f"it cannot be decoded ({error})") from error


def read_image(path: str | Path) -> np.ndarray:
    """An image file by `decode_any`: uint8 (64, 64, 3). Raises TinyclfError."""
    try:
        data = user_file(path, "image").read_bytes()
        if _opened(data).has_transparency_data:
            print(f"{path}: transparent, shown on white", file=sys.stderr)
        return np.asarray(decode_any(data))
    except (OSError, ValueError, TinyclfError) as error:
        raise TinyclfError(f"{path} is no image that can be read: {error}") from error
