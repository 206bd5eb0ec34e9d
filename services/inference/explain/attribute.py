"""What mattered for an answer: attributions of each input, by Captum. No platform in sight: a test calls it with arrays.

Integrated gradients (Sundararajan et al. 2017) where the graph has gradients; occlusion (Zeiler and Fergus 2014) and
sampled Shapley values (Štrumbelj and Kononenko 2010) by the answers of ONNX Runtime alone. Texts lose one word at a time.

Shapes: a trailing B is a batch, everything else is one instance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients, Occlusion, ShapleyValueSampling
from numpy.typing import NDArray

from aios.errors import FailedPrecondition, InvalidArgument
from services.inference.explain.graph import Graph, NotDifferentiable

GRADIENTS, OCCLUSION, SHAPLEY = "integrated_gradients", "occlusion", "shapley"
STEPS = 64  # of the path of integrated gradients
SAMPLES = 20  # permutations of sampled Shapley values
CELLS = (
    7  # an image is divided into so many patches a side for Shapley values, and twice as many for occlusion
)
BATCH = 64  # that the model is asked for at once
TOLERANCE = 1e-3  # between the graph with gradients and ONNX Runtime
WORDS_MAX = 200

Array = NDArray[Any]


@dataclass(frozen=True)
class Explanation:
    """What came of it."""

    method: str
    target: int
    score: float
    """The explained output for the input."""
    score_of_baseline: float
    attributions: Mapping[str, Array]
    """By input, in its shape."""
    words: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)
    """By text input: each word, and what the score loses without it."""
    notes: Sequence[str] = ()

    @property
    def gap(self) -> float:
        """By how much attributions and the change of the score differ, where they should add up."""
        total = sum(float(each.sum()) for each in self.attributions.values())
        return total - (self.score - self.score_of_baseline)


class Model:
    """An ONNX file, asked by ONNX Runtime.

    Args:
        batches: Whether it takes a batch dimension.
    """

    def __init__(self, path: Path, *, batches: bool) -> None:
        import onnxruntime

        self.path = path
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._batches = batches
        self.inputs = [each.name for each in self._session.get_inputs()]

    def ask(self, inputs_B: Mapping[str, Array], most: int = BATCH) -> Array:
        """The first output for each instance, flattened."""
        count = len(next(iter(inputs_B.values())))
        rows = []
        for start in range(0, count, most if self._batches else 1):
            some = {
                name: each[start : start + most] if self._batches else each[start]
                for name, each in inputs_B.items()
            }
            out = self._session.run(None, some)[0]
            rows.append(
                np.asarray(out, np.float64).reshape(
                    len(next(iter(some.values()))) if self._batches else 1, -1
                )
            )
        return np.concatenate(rows)


def explain(
    model: Model,
    instance: Mapping[str, Array],
    baseline: Mapping[str, Array],
    *,
    method: str = "",
    target: int | None = None,
    seed: int = 0,
) -> Explanation:
    """Attribute one output to the inputs of one instance.

    Args:
        instance: By input, without a batch dimension; texts are arrays of `str`.
        baseline: What an absent value is, in the shapes of `instance`.
        method: GRADIENTS where it can be, else OCCLUSION, where empty.
        target: Which output; the greatest where None.

    Raises:
        InvalidArgument: there is no such output.
        FailedPrecondition: gradients are asked for and the model has none.
    """
    whole = {name: instance[name][None] for name in model.inputs}
    answer = model.ask(whole)[0]
    chosen = int(answer.argmax()) if target is None else target
    if not 0 <= chosen < len(answer):
        raise InvalidArgument.of("target", f"the model has {len(answer)} outputs, counted from 0")
    if any(each.dtype == object for each in instance.values()):
        return _of_texts(model, whole, answer, chosen, method)
    numbers = [name for name in model.inputs if instance[name].dtype.kind == "f"]
    if not numbers:
        return _by_answers(model, whole, baseline, answer, chosen, model.inputs, OCCLUSION, seed)
    if method in ("", GRADIENTS):
        try:
            return _by_gradients(model, whole, baseline, answer, chosen, numbers)
        except NotDifferentiable as error:
            if method == GRADIENTS:
                raise FailedPrecondition(
                    f"This model has no gradients here: {error}. Choose occlusion or shapley.",
                    reason="NO_GRADIENTS",
                ) from error
            found = _by_answers(model, whole, baseline, answer, chosen, numbers, OCCLUSION, seed)
            return noted(found, f"Occlusion, since the model has no gradients here: {error}.")
    return _by_answers(model, whole, baseline, answer, chosen, numbers, method, seed)


def _by_gradients(
    model: Model,
    whole: Mapping[str, Array],
    baseline: Mapping[str, Array],
    answer: Array,
    target: int,
    numbers: Sequence[str],
) -> Explanation:
    graph = Graph(model.path).eval()
    others = [name for name in model.inputs if name not in numbers]

    def scores(*given: torch.Tensor) -> torch.Tensor:
        named = dict(zip([*numbers, *others], given, strict=True))
        made: torch.Tensor = graph(*(named[name] for name in model.inputs)).flatten(1)
        return made

    inputs = tuple(torch.from_numpy(np.array(whole[name])) for name in numbers)
    fixed = tuple(torch.from_numpy(np.array(whole[name])) for name in others)
    with torch.no_grad():
        off = float(np.abs(scores(*inputs, *fixed)[0].double().numpy() - answer).max())
    if not off <= TOLERANCE * max(1.0, float(np.abs(answer).max())):
        raise NotDifferentiable(f"its graph answers otherwise than ONNX Runtime, by {off:.2g}")
    zeros = tuple(torch.from_numpy(np.array(baseline[name][None])) for name in numbers)
    found = IntegratedGradients(scores).attribute(
        inputs,
        zeros,
        target=target,
        additional_forward_args=fixed or None,
        n_steps=STEPS,
        internal_batch_size=BATCH,
    )
    return Explanation(
        GRADIENTS,
        target,
        float(answer[target]),
        float(model.ask({**whole, **{name: baseline[name][None] for name in numbers}})[0][target]),
        {name: each[0].detach().numpy() for name, each in zip(numbers, found, strict=True)},
    )


def _by_answers(
    model: Model,
    whole: Mapping[str, Array],
    baseline: Mapping[str, Array],
    answer: Array,
    target: int,
    names: Sequence[str],
    method: str,
    seed: int,
) -> Explanation:
    kinds = {name: whole[name].dtype for name in names}

    def scores(*given: torch.Tensor) -> torch.Tensor:
        count = len(given[0])
        asked = {name: np.repeat(each, count, axis=0) for name, each in whole.items() if name not in names}
        asked |= {name: each.numpy().astype(kinds[name]) for name, each in zip(names, given, strict=True)}
        return torch.from_numpy(model.ask({name: asked[name] for name in model.inputs}))

    inputs = tuple(torch.from_numpy(whole[name].astype(np.float64)) for name in names)
    zeros = tuple(torch.from_numpy(baseline[name][None].astype(np.float64)) for name in names)
    torch.manual_seed(seed)
    with torch.no_grad():
        if method == SHAPLEY:
            masks, first = [], 0
            for each in inputs:
                mask = patches(tuple(each.shape[1:]), CELLS) + first
                first = int(mask.max()) + 1
                masks.append(torch.from_numpy(mask.astype(np.int64))[None])
            found = ShapleyValueSampling(scores).attribute(
                inputs, zeros, target=target, feature_mask=tuple(masks), n_samples=SAMPLES
            )
            # Each element has the value of its whole patch: shared out, they add up to the change of the score.
            found = tuple(
                each / torch.bincount(mask.flatten())[mask] for each, mask in zip(found, masks, strict=True)
            )
        else:
            windows = [window(tuple(each.shape[1:])) for each in inputs]
            found = Occlusion(scores).attribute(
                inputs,
                tuple(windows),
                strides=tuple(tuple(max(1, size // 2) for size in each) for each in windows),
                baselines=zeros,
                target=target,
                perturbations_per_eval=1 if len(inputs) > 1 else BATCH,
            )
    base = model.ask({**whole, **{name: baseline[name][None] for name in names}})[0]
    return Explanation(
        method or OCCLUSION,
        target,
        float(answer[target]),
        float(base[target]),
        {name: each[0].numpy() for name, each in zip(names, found, strict=True)},
    )


def _of_texts(
    model: Model, whole: Mapping[str, Array], answer: Array, target: int, method: str
) -> Explanation:
    words: dict[str, Sequence[tuple[str, float]]] = {}
    for name, each in whole.items():
        if each.dtype != object or each.size != 1:
            continue
        parts = str(each.ravel()[0]).split()[:WORDS_MAX]
        tries = [" ".join(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
        if not tries:
            continue
        asked = {key: np.repeat(value, len(tries), axis=0) for key, value in whole.items()}
        texts = np.array([*tries, None], object)[:-1]
        asked[name] = texts.reshape(len(tries), *each.shape[1:])
        without = model.ask(asked)[:, target]
        words[name] = [(word, float(answer[target] - got)) for word, got in zip(parts, without, strict=True)]
    notes = (
        ["Texts lose one word at a time."]
        if method in ("", OCCLUSION)
        else [f"Texts lose one word at a time: {method} is for numbers."]
    )
    return Explanation(OCCLUSION, target, float(answer[target]), float("nan"), {}, words, notes)


def noted(found: Explanation, note: str) -> Explanation:
    """The same with one note more."""
    return Explanation(
        found.method,
        found.target,
        found.score,
        found.score_of_baseline,
        found.attributions,
        found.words,
        [*found.notes, note],
    )


def patches(shape: Sequence[int], cells: int) -> Array:
    """A number for each element: that of its patch. Elements of vectors are each their own; channels go together."""
    if len(shape) < 2:
        return np.arange(int(np.prod(shape, dtype=int))).reshape(shape)
    rows, columns = (np.arange(size) * min(cells, size) // size for size in shape[-2:])
    flat = rows[:, None] * min(cells, shape[-1]) + columns[None, :]
    return np.broadcast_to(flat, shape).copy()


def window(shape: Sequence[int]) -> tuple[int, ...]:
    """What is occluded at once: one element of a vector, a patch of an image through all of its channels."""
    if len(shape) < 2:
        return tuple(1 for _ in shape)
    sides = tuple(max(1, -(-size // CELLS)) for size in shape[-2:])
    return (*shape[:-2], *sides)
