"""What an AutoML search over texts ends with, in the server that serves it."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as over_http

from services.inference.replica.install import install
from services.trainer import catalog
from services.trainer.job import outputs, reading, text_families, together
from tests.service.replica_platform import replica

TEXTS = ["Linux, kernel!", "ÜBER perl", "Привет python3", "nothing known", ""]
READY_SECONDS = 60  # a busy machine loads three operators' libraries


def stack() -> tuple[bytes, Any]:
    """A stack of two families as a file, and what it must answer."""
    words, y = reading.split(TEXTS * 6, reading.LENGTH_MAX), np.arange(30) % 5
    settings = [
        catalog.hyperparameters("candidate", {"family": each}) for each in ("tfidf_linear", "tfidf_bayes")
    ]
    models = [text_families.make(each, 0).fit(words, y) for each in settings]
    guesses = [model.predict_proba(words) for model in models]
    mixture = together.stacked([0, 1], guesses, y, 5)
    graph = together.to_onnx(
        [model.graph() for model in models], [model.classes_ for model in models], mixture, "probabilities"
    )
    return graph.SerializeToString(), mixture(guesses)[: len(TEXTS)]


async def test_a_stack_of_models_of_texts_answers_as_it_was_measured(tmp_path: Path) -> None:
    file, expected = await asyncio.to_thread(stack)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / outputs.MODEL_FILE).write_bytes(file)
    signature = outputs.signature_of(tmp_path / "model")
    assert [(each.name, each.datatype) for each in signature.inputs] == [("text", "BYTES")]
    await asyncio.to_thread(install, tmp_path / "triton")
    async with replica(tmp_path, tmp_path / "triton", {outputs.MODEL_FILE: file}, signature) as running:
        await running.ready(READY_SECONDS)
        asked = over_http.InferInput("text", [len(TEXTS), 1], "BYTES")
        asked.set_data_from_numpy(np.array(TEXTS, dtype=object)[:, None])
        client = over_http.InferenceServerClient(f"127.0.0.1:{running.ports['HTTP']}")
        answer = await asyncio.to_thread(client.infer, "digits", [asked])
        assert answer.as_numpy("probabilities") == pytest.approx(expected, abs=1e-5)
