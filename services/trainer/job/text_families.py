"""Families of models that an AutoML search tries on texts, each able to say itself as a graph from text to probabilities.

`tfidf_linear` and `tfidf_bayes` weigh words and pairs of words by how rare they are: with c how often one is in a text, n how
many of N texts have it,  x = (1 + log c) · (1 + log((1 + N) / (1 + n))), the row brought to length 1 (Spärck Jones 1972), under
a logistic regression or a multinomial naive Bayes (McCallum and Nigam 1998). `lstm` and `transformer` are the recipes' networks.

Shapes: N texts, T words, V terms, C classes.
"""

import itertools
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, compose, helper, inliner, numpy_helper
from sklearn import linear_model, naive_bayes
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from torch import nn
from torch.nn import functional

from services.trainer.job import data, optimizers, reading, together
from services.trainer.job.reading import Array
from services.trainer.recipes import lstm, transformer

TERMS_MAX = 50_000
ROUNDS = 100  # of the solver of a logistic regression
DECAY = 0.01
EVALUATE_BATCH = 500
PROBABILITIES = "probabilities"
NETWORKS = {"lstm": lstm.Network, "transformer": transformer.Network}


class Weighed:
    """Words and pairs of words, weighed, under a linear model."""

    def __init__(self, head: Any) -> None:
        self._head = head
        self._counts = CountVectorizer(analyzer=terms, max_features=TERMS_MAX)
        self._weights = TfidfTransformer(sublinear_tf=True)

    def fit(self, words_N: Array, y_N: Array) -> "Weighed":
        """Of what is rare: terms that one text alone has say nothing of others, where there are enough texts."""
        self._counts.set_params(min_df=2 if len(words_N) > 100 else 1)
        self._head.fit(self._weights.fit_transform(self._counts.fit_transform(words_N)), y_N)
        self.classes_ = self._head.classes_
        return self

    def predict_proba(self, words_N: Array) -> Array:
        """Shape: [N, C]."""
        found: Array = self._head.predict_proba(self._weights.transform(self._counts.transform(words_N)))
        return found

    def graph(self) -> onnx.ModelProto:
        """From text to probabilities."""
        columns = self._counts.vocabulary_
        words = sorted({word for term in columns for word in term})
        numbers = {word: number for number, word in enumerate(words, reading.OTHER + 1)}
        single = [(term, column) for term, column in columns.items() if len(term) == 1]
        pairs = [(term, column) for term, column in columns.items() if len(term) == 2]
        pool = [numbers[word] for term, _ in (*single, *pairs) for word in term]
        head = self._head
        coefficients, intercept = (
            (head.feature_log_prob_, head.class_log_prior_)
            if isinstance(head, naive_bayes.MultinomialNB)
            else (head.coef_, head.intercept_)
        )
        weights_VC, bias_C = together.full(
            coefficients, intercept, np.arange(len(self.classes_)), len(self.classes_)
        )
        graph = reading.front(numbers, reading.LENGTH_MAX)
        graph.node.extend(
            [
                helper.make_node(
                    "TfIdfVectorizer",
                    [reading.WORDS],
                    ["counts"],
                    min_gram_length=1,
                    max_gram_length=2,
                    max_skip_count=0,
                    mode="TF",
                    ngram_counts=[0, len(single)],
                    ngram_indexes=[int(column) for _, column in (*single, *pairs)],
                    pool_int64s=pool,
                ),
                helper.make_node("Max", ["counts", "one"], ["at_least_one"]),
                helper.make_node("Log", ["at_least_one"], ["logs"]),
                helper.make_node("Min", ["counts", "one"], ["there"]),
                helper.make_node("Add", ["logs", "there"], ["often"]),
                helper.make_node("Mul", ["often", "rare"], ["weighed"]),
                helper.make_node("ReduceL2", ["weighed", "second"], ["norm"]),
                helper.make_node("Max", ["norm", "least"], ["some_norm"]),
                helper.make_node("Div", ["weighed", "some_norm"], ["terms"]),
                helper.make_node("Gemm", ["terms", "weights", "bias"], ["logits"]),
                helper.make_node("Softmax", ["logits"], [PROBABILITIES], axis=1),
            ]
        )
        constants = {
            "one": np.ones(1),
            "least": np.full(1, 1e-12),
            "rare": self._weights.idf_,
            "weights": weights_VC,
            "bias": bias_C,
        }
        return _ended(graph, constants, len(self.classes_))


def terms(words: list[str]) -> Iterable[tuple[str, ...]]:
    """The words of a text, and each two that follow each other."""
    yield from zip(words, strict=True)
    yield from itertools.pairwise(words)


class Trained:
    """One of the recipes' networks over the numbers of words, trained without checkpoints: a fold is short."""

    def __init__(self, family: str, settings: Mapping[str, Any], seed: int) -> None:
        self._family, self._settings, self._seed = family, settings, seed

    def fit(self, words_N: Array, y_N: Array) -> "Trained":
        """The learning rate rises in the first third of all steps, and falls, as in every recipe."""
        settings = self._settings
        self.classes_, y = np.unique(y_N, return_inverse=True)
        counts = Counter(word for words in words_N for word in words)
        known = sorted(counts, key=lambda word: (-counts[word], word))[: settings["vocabulary"]]
        self._numbers = {word: number for number, word in enumerate(known, reading.OTHER + 1)}
        x_NT, labels_N = self._encoded(words_N), torch.from_numpy(y)
        torch.manual_seed(self._seed)
        made = {**settings, "dropout": settings["dropout"], "heads": 4}
        self._network = NETWORKS[self._family](len(known) + 2, len(self.classes_), made)
        rate, size, epochs = settings["learning_rate"], settings["batch_size"], settings["epochs"]
        optimizer = optimizers.make("adamw", self._network.parameters(), rate, DECAY)
        steps = max(2, epochs * data.steps_per_epoch(len(y), size))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=steps, cycle_momentum=False
        )
        self._network.train()
        for step, _, chosen_B in data.batches(len(y), size, epochs, self._seed, 0):
            loss = functional.cross_entropy(self._network(_trimmed(x_NT[chosen_B])), labels_N[chosen_B])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step < steps:
                schedule.step()
        self._network.eval()
        return self

    @torch.no_grad()
    def predict_proba(self, words_N: Array) -> Array:
        """Shape: [N, C]."""
        parts = [
            self._network(_trimmed(part)).softmax(1) for part in self._encoded(words_N).split(EVALUATE_BATCH)
        ]
        found: Array = torch.cat(parts).double().numpy()
        return found

    def graph(self) -> onnx.ModelProto:
        """From text to probabilities."""
        length = self._settings["length"]
        return _behind(
            reading.front(self._numbers, length),
            nn.Sequential(self._network, nn.Softmax(dim=1)),
            torch.ones(2, length, dtype=torch.int64),
            len(self.classes_),
        )

    def _encoded(self, words_N: Array) -> torch.Tensor:
        return torch.from_numpy(reading.encode(words_N, self._numbers, self._settings["length"]))


def make(settings: Mapping[str, Any], seed: int) -> Any:
    """A model of a family, not fitted yet."""
    family = settings["family"]
    if family == "tfidf_linear":
        return Weighed(linear_model.LogisticRegression(C=settings["strength"], max_iter=ROUNDS, tol=1e-3))
    if family == "tfidf_bayes":
        return Weighed(naive_bayes.MultinomialNB(alpha=settings["smoothing"]))
    return Trained(family, settings, seed)


def _trimmed(x_BT: torch.Tensor) -> torch.Tensor:
    """Without the columns in which no text has a word."""
    return x_BT[:, : max(1, int((x_BT != reading.NOTHING).sum(dim=1).max()))]


def _behind(
    graph: onnx.GraphProto, network: nn.Module, example: torch.Tensor, classes: int
) -> onnx.ModelProto:
    """A network behind a graph that ends with the numbers of words."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        path = Path(folder, "network.onnx")
        program = torch.onnx.export(
            network.eval(),
            (example,),
            input_names=[reading.WORDS],
            output_names=[PROBABILITIES],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=256)},),
            opset_version=reading.OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(str(path), external_data=False)
        made = onnx.load(str(path))
    behind = inliner.inline_local_functions(made) if made.functions else made
    behind = compose.add_prefix(behind, "net_", rename_inputs=False, rename_outputs=False)
    graph.node.extend(behind.graph.node)
    graph.initializer.extend(behind.graph.initializer)
    return _ended(graph, {}, classes)


def _ended(graph: onnx.GraphProto, constants: Mapping[str, Array], classes: int) -> onnx.ModelProto:
    graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["batch", classes]))
    return reading.model(graph)
