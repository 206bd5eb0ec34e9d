"""How MLflow's client, in a job, says whose it is: it finds this by an entry point and MLFLOW_TRACKING_AUTH=aios.

Where the platform is installed, the entry point is its own. An environment of a job's own packages has no platform: there
`plant` lays a copy of this file beside the job, in a folder for PYTHONPATH. So it imports the standard library alone.
"""

import os
import shutil
from pathlib import Path
from typing import Any

NAME = "aios"
GROUP = "mlflow.request_auth_provider"
MODULE = "aios_job_mlflow"
"""What the copy is called."""


class JobToken:
    """The job's token, read at each call: it is renewed in its file, and one in the environment would end."""

    def get_name(self) -> str:
        """As MLFLOW_TRACKING_AUTH says it."""
        return NAME

    def get_auth(self) -> "JobToken":
        """What signs a request."""
        return self

    def __call__(self, request: Any) -> Any:
        """Sign a request of the library `requests`."""
        path = os.environ.get("AIOS_TOKEN_FILE")
        if path is None:
            raise RuntimeError("MLFLOW_TRACKING_AUTH=aios is for jobs: set MLFLOW_TRACKING_TOKEN here.")
        request.headers["Authorization"] = f"Bearer {Path(path).read_text().strip()}"
        return request


def plant(folder: Path) -> Path:
    """Make `folder` one that says to any Python with it on its path what the platform's own environment says."""
    about = folder / f"{MODULE}-1.0.dist-info"
    about.mkdir(parents=True)
    shutil.copyfile(__file__, folder / f"{MODULE}.py")
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {MODULE.replace('_', '-')}\nVersion: 1.0\n"
    )
    (about / "entry_points.txt").write_text(f"[{GROUP}]\n{NAME} = {MODULE}:JobToken\n")
    return folder
