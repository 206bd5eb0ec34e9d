"""Several models as one: by weights (Caruana), or by a model over what they say (stacking), and as one ONNX file.

A stack is Wolpert's stacked generalisation (1992): the guesses that each member made of samples that it had not learnt from
become the features of another model. For classes that is a logistic regression over the members' probabilities, for numbers
a weighted sum with weights of at least zero (Breiman 1996).

Shapes: M members, N samples, C classes (1 for numbers), O outputs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper
from sklearn import linear_model

Array = NDArray[Any]
STRENGTH = 1.0  # of the logistic regression, against its penalty
ROUNDS = 500


@dataclass(frozen=True)
class Mixture:
    """What several models say, as what one says: [p₁ … p_M] W + b, and its softmax where it is one of logits."""

    members: tuple[int, ...]
    weights_KO: Array
    """K is M times C."""
    bias_O: Array
    softmax: bool

    def __call__(self, guesses_MNC: Sequence[Array]) -> Array:
        """Guesses from those of its members, in their order."""
        made_NO: Array = np.concatenate(guesses_MNC, axis=1) @ self.weights_KO + self.bias_O
        if not self.softmax:
            return made_NO
        powers = np.exp(made_NO - made_NO.max(axis=1, keepdims=True))
        shares: Array = powers / powers.sum(axis=1, keepdims=True)
        return shares


def weighted(members: Sequence[int], weights: Iterable[float], size: int) -> Mixture:
    """The weighted mean of some models, of `size` outputs each."""
    blocks = [weight * np.eye(size) for weight in weights]
    return Mixture(tuple(members), np.concatenate(blocks), np.zeros(size), softmax=False)


def stacked(members: Sequence[int], guesses_MNC: Sequence[Array], y_N: Array, classes: int) -> Mixture:
    """A model of what is true given what some models guess."""
    given_NK = np.concatenate(guesses_MNC, axis=1)
    if not classes:
        line = linear_model.LinearRegression(positive=True).fit(given_NK, y_N)
        return Mixture(tuple(members), line.coef_[:, None], np.array([line.intercept_]), softmax=False)
    model = linear_model.LogisticRegression(C=STRENGTH, max_iter=ROUNDS).fit(given_NK, y_N)
    weights_KC, bias_C = full(model.coef_, model.intercept_, model.classes_, classes)
    return Mixture(tuple(members), weights_KC, bias_C, softmax=True)


def full(coefficients: Array, intercept: Array, known: Array, classes: int) -> tuple[Array, Array]:
    """A linear model's weights [K, C] and bias [C], with a column for every class; softmax gives its probabilities."""
    if len(known) == 2 and len(coefficients) == 1:  # one logit: of the second class against the first
        coefficients, intercept = (
            np.concatenate([np.zeros_like(each), each]) for each in (coefficients, intercept)
        )
    weights_KC = np.zeros((coefficients.shape[1], classes))
    bias_C = np.full(classes, -1e4)  # of a class that was never seen
    weights_KC[:, known] = coefficients.T
    bias_C[known] = intercept
    return weights_KC, bias_C


def to_onnx(
    members: Sequence[onnx.ModelProto], known: Sequence[Array], mixture: Mixture, output: str
) -> onnx.ModelProto:
    """One graph of a mixture. Every member takes the same input; its last output is what it says.

    Args:
        known: For each member which of the C classes it has an output for; 0 of numbers.
    """
    graph = onnx.GraphProto(name="together")
    given = members[0].graph.input[0]
    graph.input.append(given)
    said: list[str] = []
    domains: dict[str, int] = {}
    for index, member in enumerate(members):
        named = compose.add_prefix(member, f"m{index}_", rename_inputs=False)
        graph.node.extend(named.graph.node)
        graph.initializer.extend(named.graph.initializer)
        said.append(named.graph.output[-1].name)
        for opset in named.opset_import:
            domains[opset.domain] = max(opset.version, domains.get(opset.domain, 0))
    blocks = np.split(mixture.weights_KO, len(members))
    weights_KO = np.concatenate([block[columns] for block, columns in zip(blocks, known, strict=True)])
    for name, value in (("weights", weights_KO), ("bias", mixture.bias_O)):
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    last = "mixed" if mixture.softmax else output
    graph.node.extend(
        [
            helper.make_node("Concat", said, ["said"], axis=1),
            helper.make_node("Gemm", ["said", "weights", "bias"], [last]),
        ]
    )
    if mixture.softmax:
        graph.node.append(helper.make_node("Softmax", [last], [output], axis=1))
    size = mixture.weights_KO.shape[1]
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", size]))
    imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    made = helper.make_model(graph, opset_imports=imports, ir_version=members[0].ir_version)
    onnx.checker.check_model(made)
    return made
