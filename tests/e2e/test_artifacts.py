"""MLflow's artifacts and models over the public door: what a client logs and registers is the platform's own data."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aios.client import Client
from tests.e2e.stack import Stack

pytestmark = pytest.mark.timeout(300)
API, FILES = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"
IN_PARTS_BYTES = 65 << 20
MLMODEL = b"flavors:\n  sklearn: {pickled_model: model.pkl}\n  python_function: {}\n"


@pytest.fixture
def api(aios: Stack) -> Iterator[httpx.Client]:
    with aios.http() as api:
        yield api


@pytest.fixture
def run(api: httpx.Client) -> dict[str, Any]:
    """A run that somebody else runs."""
    made = ask(api, "POST", "runs/create", experiment_id="0", run_name="theirs")
    info: dict[str, Any] = made["run"]["info"]
    return info


def ask(api: httpx.Client, method: str, path: str, **body: Any) -> Any:
    sent: Any = {"params": body} if method == "GET" else {"json": body}
    answer = api.request(method, f"{API}/{path}", **sent)
    assert answer.status_code == 200, answer.text
    return answer.json()


def url(uri: str, path: str = "") -> str:
    return f"{FILES}/{uri.removeprefix('mlflow-artifacts:/')}/{path}".rstrip("/")


def names(api: httpx.Client, uri: str, path: str = "") -> dict[str, int | None]:
    """What lies in a folder: size by name, None for a folder."""
    at = url(uri, path).removeprefix(f"{FILES}/")
    answer = api.get(FILES, params={"path": at})
    assert answer.status_code == 200, answer.text
    listed = answer.json().get("files", [])
    return {each["path"]: None if each["is_dir"] else int(each["file_size"]) for each in listed}


def test_files_of_a_run_come_and_go_and_are_its_outputs(
    api: httpx.Client, client: Client, run: dict[str, Any], tmp_path: Path
) -> None:
    uri, large = run["artifact_uri"], os.urandom(IN_PARTS_BYTES)
    for path, content in {"plots/a b.txt": b"hello", "empty": b"", "large.bin": large}.items():
        assert api.put(url(uri, path), content=content).status_code == 200
    assert names(api, uri) == {"empty": 0, "large.bin": len(large), "plots": None}
    assert names(api, uri, "plots") == {"a b.txt": 5}
    with api.stream("GET", url(uri, "large.bin")) as answer:
        got = hashlib.sha256()
        for piece in answer.iter_bytes():
            got.update(piece)
    assert got.digest() == hashlib.sha256(large).digest()
    assert api.get(url(uri, "empty")).content == b""
    assert api.delete(url(uri, "large.bin")).status_code == 200
    assert api.get(url(uri, "large.bin")).json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    # A look at a file makes a version of all.
    assert api.get(url(uri, "plots/a b.txt")).content == b"hello"
    client.datasets.pull(client.runs.get(run["run_id"]).outputs, tmp_path)
    assert (tmp_path / "plots" / "a b.txt").read_text() == "hello"
    assert not (tmp_path / "large.bin").exists()


def test_what_may_not_be_written_is_refused_before_it_is_sent(
    aios: Stack, api: httpx.Client, run: dict[str, Any]
) -> None:
    for path, status in {
        "0/none/artifacts/x": 404,
        f"elsewhere/{run['run_id']}/artifacts/x": 404,
        f"0/{run['run_id']}/artifacts/C:/x": 400,
        "registry/iris/1/x": 403,
        "x": 404,
    }.items():
        answer = api.put(f"{FILES}/{path}", content=b"x")
        assert answer.status_code == status, (path, answer.text)
        assert answer.json()["error_code"]
    assert httpx.put(f"{aios.address}{url(run['artifact_uri'], 'x')}", content=b"x").status_code == 401
    assert api.post(url(run["artifact_uri"], "x"), content=b"x").status_code == 405
    parts = api.post("/api/2.0/mlflow-artifacts/mpu/create/0/x", json={})
    assert parts.json()["message"].startswith("Multipart upload is not supported")


def test_a_logged_model_is_registered_named_and_read_back(
    aios: Stack, api: httpx.Client, client: Client, run: dict[str, Any]
) -> None:
    made = ask(api, "POST", "logged-models", experiment_id="0", name="m", source_run_id=run["run_id"])
    info = made["model"]["info"]
    for path, content in {"MLmodel": MLMODEL, "model.pkl": b"not opened by anybody here"}.items():
        assert api.put(url(info["artifact_uri"], path), content=content).status_code == 200
    ask(api, "PATCH", f"logged-models/{info['model_id']}", status="LOGGED_MODEL_READY")
    ask(api, "POST", "runs/outputs", run_id=run["run_id"], models=[{"model_id": info["model_id"], "step": 0}])
    metric = {"key": "accuracy", "value": 0.9, "timestamp": 1, "model_id": info["model_id"]}
    ask(api, "POST", "runs/log-batch", run_id=run["run_id"], metrics=[metric])

    ask(api, "POST", "registered-models/create", name="Irises of_mine")
    source = f"models:/{info['model_id']}"
    version = ask(api, "POST", "model-versions/create", name="Irises of_mine", source=source)["model_version"]
    assert (version["version"], version["run_id"], version["model_id"]) == (
        "1",
        run["run_id"],
        info["model_id"],
    )
    ask(api, "POST", "registered-models/alias", name="Irises of_mine", alias="champion", version="1")
    champion = ask(api, "GET", "registered-models/alias", name="Irises of_mine", alias="champion")
    assert champion["model_version"]["aliases"] == ["champion"]

    ours = client.models.version("irises-of-mine/@champion")
    assert {file.path for file in ours.files} == {"MLmodel", "model.pkl"}
    assert (dict(ours.metrics), ours.run.rpartition("/")[2]) == ({"accuracy": 0.9}, run["run_id"])
    assert "sklearn" in ours.card
    refused = aios.aios("deploy", "irises-of-mine/1", "--name", "irises", code=None)
    assert refused.code != 0
    assert "does not say what it takes" in refused.err

    found = ask(api, "GET", "model-versions/get-download-uri", name="Irises of_mine", version="1")
    assert names(api, found["artifact_uri"]) == {
        "MLmodel": len(MLMODEL),
        "model.pkl": len(b"not opened by anybody here"),
    }
    assert api.get(url(found["artifact_uri"], "model.pkl")).content == b"not opened by anybody here"
    listed = ask(api, "GET", "registered-models/search", filter="name ILIKE 'irises%'")["registered_models"]
    assert [each["name"] for each in listed] == ["Irises of_mine"]
    logged = ask(api, "POST", "logged-models/search", experiment_ids=["0"], filter="metrics.accuracy > 0.8")[
        "models"
    ]
    assert [each["info"]["registrations"] for each in logged] == [
        [{"name": "Irises of_mine", "version": "1"}]
    ]


def test_what_the_platform_registered_is_seen_by_mlflow(
    api: httpx.Client, client: Client, run: dict[str, Any], tmp_path: Path
) -> None:
    api.put(url(run["artifact_uri"], "model/model.onnx"), content=b"weights").raise_for_status()
    source = f"{run['artifact_uri']}/model"
    ask(api, "POST", "registered-models/create", name="from-files")
    ask(api, "POST", "model-versions/create", name="from-files", source=source, run_id=run["run_id"])
    client.models.set_alias("from-files/1", "best")
    seen = ask(api, "GET", "registered-models/get", name="from-files")["registered_model"]
    assert (seen["aliases"], seen["latest_versions"][0]["source"]) == (
        [{"alias": "best", "version": "1"}],
        source,
    )
    refused = api.request(
        "DELETE", f"{API}/model-versions/delete", json={"name": "from-files", "version": "1"}
    )
    assert (refused.status_code, refused.json()["error_code"]) == (400, "INVALID_STATE")
    ask(api, "DELETE", "registered-models/alias", name="from-files", alias="best")
    ask(api, "DELETE", "model-versions/delete", name="from-files", version="1")
    assert ask(api, "GET", "model-versions/search", filter="name = 'from-files'") == {}
