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

from aios.client.client import AsyncClient
from aios.client.credentials import Credentials, resolve
from aios.client.predictions import Prediction
from aios.client.sync import Client
from aios.client.transfer import Progress

__all__ = ["AsyncClient", "Client", "Credentials", "Prediction", "Progress", "resolve"]
