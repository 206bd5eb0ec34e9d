"""The public Python client: `AsyncClient`, and `Client`, the same without `await`.

    from aios.client import Client

    with Client() as aios:
        version = aios.datasets.push("digits", "./digits")
        run = aios.runs.wait(aios.runs.submit({"recipe": "image_classifier", "dataset": version.name}).name)
        aios.deployments.deploy(run.model_version, "digits", wait=True)
        aios.predict("digits", images).outputs["logits"]

Speaks to the public door only. Resources are the messages of the contract; every failure is a class of `aios.errors`
with a `.reason`. Wherever a resource name is expected, the short id in the client's project will do.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aios.client.client import AsyncClient
    from aios.client.credentials import Credentials, resolve
    from aios.client.predictions import Prediction
    from aios.client.sync import Client
    from aios.client.transfer import Progress

__all__ = ["AsyncClient", "Client", "Credentials", "Prediction", "Progress", "resolve"]

_HOMES = {
    "AsyncClient": "client",
    "Client": "sync",
    "Credentials": "credentials",
    "Prediction": "predictions",
    "Progress": "transfer",
    "resolve": "credentials",
}


def __getattr__(name: str) -> object:
    """Load a part when it is first asked for: job processes use one module of this package and start often."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
