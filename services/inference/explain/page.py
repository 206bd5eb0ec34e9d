"""What an explanation says: a page for people, numbers for programs, a picture for images."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aios import html
from services.inference.explain.attribute import Explanation

Array = NDArray[Any]
SIDE_PIXELS = 336
BARS_MAX = 40
STYLE = """figure{display:inline-block;margin:0 1em 1em 0}figcaption{color:#555}img{image-rendering:pixelated;border:1px solid #ddd}
.bar{display:inline-block;height:.8em}.words span{padding:.1em .2em;border-radius:.2em;line-height:2}"""


def is_image(shape: Sequence[int]) -> bool:
    """Whether an array of this shape can be looked at: [H, W], [C, H, W] or [H, W, C]."""
    sides = [size for size in shape if size not in (1, 3)]
    return len(shape) in (2, 3) and len(sides) == 2 and min(sides) >= 8


def page(
    title: str,
    facts: Mapping[str, object],
    found: Explanation,
    inputs: Mapping[str, Array],
    labels: Sequence[str],
) -> str:
    """One HTML file without a script."""
    parts = [html.table(["", ""], list(facts.items()))]
    parts += [f"<p>{escape(note)}" for note in found.notes]
    for name, attribution in found.attributions.items():
        parts.append(f"<h2>{escape(name)}</h2>")
        if is_image(attribution.shape):
            parts.append(_figure(gray(inputs[name]), "what the model was given"))
            parts.append(
                _figure(picture(inputs[name], attribution), "red speaks for the answer, blue against it")
            )
        else:
            parts.append(_bars(attribution, inputs[name]))
    for name, words in found.words.items():
        parts.append(f"<h2>{escape(name)}</h2>")
        parts.append(_words(words))
    return html.page(title, *parts, style=STYLE)


def numbers(facts: Mapping[str, object], found: Explanation, inputs: Mapping[str, Array]) -> dict[str, Any]:
    """The same for programs."""
    return {
        **facts,
        "method": found.method,
        "target_index": found.target,
        "score": found.score,
        "score_of_baseline": None if math.isnan(found.score_of_baseline) else found.score_of_baseline,
        "attributions": {name: each.tolist() for name, each in found.attributions.items()},
        "words": {name: [list(each) for each in words] for name, words in found.words.items()},
        "notes": list(found.notes),
    }


def picture(pixels: Array, attribution: Array) -> Image.Image:
    """The image, pale, with what spoke for the answer in red and what spoke against it in blue."""
    flat, weights = _flat(pixels).astype(np.float64), _flat(attribution)
    low, high = flat.min(), flat.max()
    pale_HW = 255 - 70 * (flat - low) / ((high - low) or 1)
    bound = np.quantile(np.abs(weights), 0.995) or float(np.abs(weights).max()) or 1.0
    share_HW = np.clip(np.abs(weights) / bound, 0, 1)[..., None]
    colour_HWC = np.where(weights[..., None] > 0, [220, 57, 18], [51, 102, 204])
    mixed = pale_HW[..., None] * (1 - share_HW) + colour_HWC * share_HW
    return _scaled(Image.fromarray(mixed.astype(np.uint8)))


def gray(pixels: Array) -> Image.Image:
    """The image as it was given, stretched from its darkest to its lightest value."""
    flat = _flat(pixels).astype(np.float64)
    low, high = flat.min(), flat.max()
    return _scaled(Image.fromarray(((flat - low) / ((high - low) or 1) * 255).astype(np.uint8)))


def png(image: Image.Image) -> bytes:
    """As a file."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _flat(values: Array) -> Array:
    """Height and width; channels are added up."""
    if values.ndim == 2:
        return values
    made: Array = values.sum(axis=0 if values.shape[0] in (1, 3) else 2)
    return made


def _scaled(image: Image.Image) -> Image.Image:
    factor = max(1, SIDE_PIXELS // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _figure(image: Image.Image, caption: str) -> str:
    data = base64.b64encode(png(image)).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _bars(attribution: Array, values: Array) -> str:
    flat, given = attribution.ravel(), values.ravel()
    bound = float(np.abs(flat).max(initial=0)) or 1.0
    order = np.argsort(-np.abs(flat), kind="stable")[:BARS_MAX]
    rows = [
        f"<tr><td>{index}<td>{given[index]:.4g}<td>{flat[index]:+.4g}"
        f'<td style="text-align:left"><span class="bar" style="width:{20 * abs(flat[index]) / bound:.2f}em;'
        f'background:{"#dc3912" if flat[index] > 0 else "#3366cc"}"></span>'
        for index in order
    ]
    more = f"<p>{len(flat) - len(order)} more matter less." if len(flat) > len(order) else ""
    return f"<table><tr><th>element<th>value<th>attribution<th>{''.join(rows)}</table>{more}"


def _words(words: Sequence[tuple[str, float]]) -> str:
    bound = max((abs(weight) for _, weight in words), default=0) or 1.0
    parts = [
        f'<span style="background:rgba({"220,57,18" if weight > 0 else "51,102,204"},{abs(weight) / bound:.2f})" '
        f'title="{weight:+.4g}">{escape(word)}</span>'
        for word, weight in words
    ]
    return f'<p class="words">{" ".join(parts)}</p>'
