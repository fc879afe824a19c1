"""From whatever a file holds to 8-bit sRGB. Torch-free."""

from __future__ import annotations

import io

from PIL import ExifTags, Image, ImageChops, ImageCms

from engine.inputs.refusal import Refusal, printable


def over(image: Image.Image, background: str, depth: int, notes: list[str]) -> Image.Image:
    """A loaded image in sRGB, transparent parts over a background ("#rrggbb"). Raises Refusal for 32 bits a channel.

    depth: bits of a channel in the file. notes: of what was done, added to.
    """
    profile = image.info.get("icc_profile")
    image = _of_8_bits(image, depth, notes)
    alpha = None
    if image.has_transparency_data:
        # grey stays grey: its profile is one of grey
        image = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
        alpha = image.getchannel("A")
        image = image.convert(image.mode[:-1])
    rgb = _in_srgb(image, profile, notes)
    if alpha is None or alpha.getextrema()[0] == 255:
        return rgb
    notes.append(f"transparent parts over {background}")
    canvas = Image.new("RGB", rgb.size, background)
    canvas.paste(rgb, mask=alpha)
    return canvas


def _of_8_bits(image: Image.Image, depth: int, notes: list[str]) -> Image.Image:
    """Of 16 bits the upper 8, as Pillow does for colours: 8 bits that were widened come back as they were."""
    clear = image.info.get("transparency")
    if image.format == "PNG" and clear is not None and image.mode in ("L", "RGB"):
        # the colour that is to be transparent has as many bits as the file
        image.info["transparency"] = _fewer_bits(clear, depth)
    if image.mode == "I" and image.format in ("PPM", "PNG"):
        image = image.convert("I;16")
    if image.mode.startswith("I;16"):
        notes.append("16 bits to 8")
        return _upper_bytes(image, clear if isinstance(clear, int) else None)
    if depth == 16:
        notes.append("16 bits to 8")
    if image.mode in ("I", "F"):
        raise Refusal(
            "holds 32 bits a channel, of which black and white are unknown; save it as PNG"
        )
    return image


def _fewer_bits(clear: int | tuple[int, ...], depth: int) -> int | tuple[int, ...]:
    if isinstance(clear, tuple):
        return tuple(value >> 8 if depth == 16 else value for value in clear)
    return clear * 255 // ((1 << depth) - 1) if depth < 8 else clear


def _upper_bytes(image: Image.Image, clear: int | None) -> Image.Image:
    """The upper bytes of 16-bit grey, with an alpha where one of its values is to be transparent."""
    first, second = (
        Image.frombytes("L", image.size, image.tobytes()[start::2]) for start in (0, 1)
    )
    upper, lower = (first, second) if image.mode == "I;16B" else (second, first)
    tags = getattr(image, "tag_v2", {})
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # white is zero, which Pillow leaves
        upper = ImageChops.invert(upper)
    if clear is None:
        return upper
    is_other = ImageChops.lighter(
        upper.point([255 * (value != clear >> 8) for value in range(256)]),
        lower.point([255 * (value != clear & 255) for value in range(256)]),
    )
    return Image.merge("LA", (upper, is_other))


_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}


def _in_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """RGB of an image without alpha. Relative colorimetric, as browsers do."""
    if image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode == "LAB":
        notes.append("Lab to RGB")
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        return _transform(lab, "LAB").apply(image)
    if image.mode == "CMYK":
        notes.append("CMYK to RGB")
    if not profile:
        _note_gamma(image, notes)
        return _as_rgb(image)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES.get(source.profile.xcolor_space.strip(), "")
        if mode == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        if mode != image.mode:
            notes.append(f"its colour profile is not one of {image.mode} and was ignored")
            return _as_rgb(image)
        transform = _transform(source, mode)
        name = printable(" ".join(ImageCms.getProfileDescription(source).split())[:60])
    except Exception:  # noqa: BLE001  # lcms has no words of its own for it
        notes.append("its colour profile is damaged and was ignored")
        return _as_rgb(image)
    if mode in ("L", "RGB") and _is_srgb(transform, mode):
        return _as_rgb(image)
    notes.append(f"from {name or 'a profile without a name'} to sRGB")
    return transform.apply(image)


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy


def _note_gamma(image: Image.Image, notes: list[str]) -> None:
    """Of a PNG that says it without a profile: mostly it is that of sRGB, and else mostly wrong."""
    gamma = image.info.get("gamma")
    if gamma and "srgb" not in image.info and abs(gamma - 1 / 2.2) > 0.01:
        notes.append(f"its gamma of {gamma:g} was not applied")


def _transform(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.ImageCmsTransform(source, target, mode, "RGB", intent)


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether colours stay what they are but for rounding: the many profiles named sRGB are left alone, so that a
    picture has one digest with and without."""
    if mode == "L":
        probe = Image.frombytes("L", (256, 1), bytes(range(256)))
    else:
        steps = [*range(0, 256, 15)]
        colours = bytes(value for r in steps for g in steps for b in steps for value in (r, g, b))
        probe = Image.frombytes("RGB", (len(steps), len(steps) ** 2), colours)
    changes = ImageChops.difference(transform.apply(probe), probe.convert("RGB"))
    return max(changes.tobytes()) <= 2
