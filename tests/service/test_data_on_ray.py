"""Transforms on a real Ray cluster of this machine, where Ray is installed: `pip install 'aios-platform[ray]'`."""

from contextlib import closing
from pathlib import Path

import pytest

from services.data.job.engine import Local
from services.data.job.on_ray import Ray
from tests.ray_cluster import TOKEN, RayDidNotStart, ray_cluster
from tests.unit.test_data_engine import MODULES, written

pytest.importorskip("ray", reason="Ray has a lock of its own: pip install -r requirements/ray.lock")
pytestmark = pytest.mark.timeout(400)


def test_a_version_is_the_same_bytes_here_and_on_a_cluster(tmp_path: Path) -> None:
    try:
        with ray_cluster() as address, closing(Ray(address, TOKEN)) as engine:
            made = {name: written(name, engine, tmp_path / "ray" / name) for name in MODULES}
    except RayDidNotStart as error:
        pytest.skip(str(error))

    assert made == {name: written(name, Local(), tmp_path / "here" / name) for name in MODULES}
