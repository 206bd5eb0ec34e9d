"""What a web page sends and gets: plain JSON, over the same way as every prediction."""

import base64
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aios.client import Client
from tests.e2e import digits
from tests.e2e.stack import Stack
from tests.e2e.test_main_path import Trace

pytestmark = pytest.mark.timeout(300)
PATH = "/v1/projects/default/deployments/digits:predict"


def png(folder: Path, index: int) -> bytes:
    pixels = np.load(folder / "digits" / "test" / "images.npy")[index]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_an_image_goes_in_by_curl_and_its_label_comes_out(
    aios: Stack, client: Client, deployment: dict[str, Any], folder: Path
) -> None:
    images, _ = digits.held_out(folder)
    told = client.predict("digits", images[:2])
    encoded = [{"b64": base64.b64encode(png(folder, index)).decode()} for index in range(2)]

    done = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "-D-", aios.address + PATH, "-H", f"authorization: Bearer {aios.token}",
         "-H", "content-type: application/json", "-d", json.dumps({"instances": encoded})],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip

    head, _, text = done.stdout.replace("\r", "").partition("\n\n")
    answer = json.loads(text)
    assert "predictions" in answer, done.stdout
    assert [each["label"] for each in answer["predictions"]] == [
        str(best) for best in told.outputs["logits"].argmax(1)
    ]
    assert np.allclose(answer["predictions"][0]["outputs"]["logits"], told.outputs["logits"][0], atol=1e-3)
    assert 0 < answer["predictions"][0]["probability"] <= 1
    assert answer["revision"] == deployment["liveRevision"]
    headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])
    assert headers["x-aios-revision"] == answer["revision"].rpartition("/")[2]
    assert headers["x-aios-trace-id"] == answer["traceId"]
    method = "aios.inference.v1.InferenceService/Predict"
    trace = Trace.whole(client, answer["traceId"], method, "predict digits", "model.compute")
    steps = trace.path("model.compute")
    assert ("inference", method) in steps
    assert steps[-3:] == [
        ("envoy", "predict digits"),
        ("envoy", f"to default~digits~{deployment['liveRevision'].rpartition('/')[2]}~http"),
        ("triton", "model.compute"),
    ]


def test_the_command_says_what_an_image_shows(
    aios: Stack, client: Client, deployment: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "digit.png").write_bytes(png(folder, 0))
    answer = aios.json("predict", "digits", "--input", tmp_path / "digit.png")
    assert answer["predictions"][0]["label"] == str(
        client.predict("digits", digits.held_out(folder)[0][:1]).outputs["logits"].argmax()
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"instances": [[1, 2]]}', "instances[0]"),
        ('{"instances": [[[NaN]]]}', "NaN is no JSON number"),
        ('{"instances": [' + "[" * 1_000_000 + "]" * 1_000_000 + "]}", "nested"),
        ('{"instances": ' + '{"a":' * 500 + "1" + "}" * 500 + "}", "instances"),
        ('{"instanses": []}', "instances"),
    ],
    ids=["shape", "nan", "deep", "deep-object", "misspelt"],
)
def test_hostile_json_is_refused_and_named(
    aios: Stack, deployment: dict[str, Any], body: str, said: str
) -> None:
    with aios.http() as http:
        answer = http.post(PATH, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert said in answer.text
