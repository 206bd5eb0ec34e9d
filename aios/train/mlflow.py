"""How MLflow's client, in a job, says whose it is. It finds this by its entry point and MLFLOW_TRACKING_AUTH=aios."""

from typing import Any

from aios.config import Settings
from aios.errors import FailedPrecondition
from aios.runtime.token_files import token_file

NAME = "aios"


class JobToken:
    """The job's token, read at each call: it is renewed in its file, and one in the environment would end."""

    def __init__(self) -> None:
        path = Settings.load().token_file
        self._token = token_file(path) if path is not None else None

    def get_name(self) -> str:
        """As MLFLOW_TRACKING_AUTH says it."""
        return NAME

    def get_auth(self) -> "JobToken":
        """What signs a request."""
        return self

    def __call__(self, request: Any) -> Any:
        """Sign a request of the library `requests`."""
        if self._token is None:
            raise FailedPrecondition(
                "MLFLOW_TRACKING_AUTH=aios is for jobs: set MLFLOW_TRACKING_TOKEN here.", reason="NO_JOB"
            )
        request.headers["Authorization"] = f"Bearer {self._token()}"
        return request
