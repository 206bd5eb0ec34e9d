"""`python -m services.data.job`: do one transform, then end.

Exit codes: 0 done, 1 failed (the log says why).
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path

from aios.config import Settings
from aios.data.v1 import transform_service_pb2 as pb
from aios.errors import AiosError, FailedPrecondition
from aios.runtime import telemetry
from aios.runtime.token_files import token_file
from services.data.job import parts
from services.data.job.engine import Engine, Local
from services.data.job.on_ray import Ray
from services.data.job.platform import Platform, spec_of
from services.data.job.work import Model, Result, Work, folder_of
from services.data.transforms import Spec, type_of


def main() -> None:
    """Do the transform that this job was made for."""
    try:
        settings = Settings.load()
        if settings.token_file is None or "AIOS_JOB_TRANSFORM" not in os.environ:
            raise FailedPrecondition("This is no transform of the platform.", reason="NO_JOB")
        spec = Spec.from_json(json.loads(os.environ["AIOS_JOB_TRANSFORM"]))
        print(spec_of(spec), flush=True)
        with _traced(settings):
            asyncio.run(_do(settings, spec))
    except AiosError as error:
        sys.exit(f"{error.reason}: {error.message}")


async def _do(settings: Settings, spec: Spec) -> None:
    assert settings.token_file is not None
    token, job, epoch = token_file(settings.token_file), os.environ["AIOS_JOB"], int(os.environ["AIOS_EPOCH"])
    platform = Platform(settings.address, token, job, epoch)
    scratch = Path(os.environ.get("AIOS_SCRATCH") or tempfile.mkdtemp(prefix="aios-"))
    try:
        with telemetry.span("pull"):
            origin = await platform.origin(spec.input)
            named = {"": spec.input, **spec.inputs}
            for name, version in named.items():
                await platform.download(version, scratch / f"input-{name}")
        told = pb.GetTransformKeyResponse()
        if type_of(spec.type).keyed or settings.ray_address:
            told = await platform.secrets()
        named_model = str(spec.parameters.get("model", ""))
        model = await platform.model(named_model, scratch / "model") if named_model else Model()
        with telemetry.span(spec.type, attributes={"aios.input": spec.input}):
            # The loop stays free for the connection's keepalive.
            result, form = await asyncio.to_thread(
                _transform, settings.ray_address, spec, scratch, told, frozenset(origin.privacy), model
            )
        with telemetry.span("push"):
            await asyncio.to_thread(folder_of, result, scratch / "output", form)
            privacy = origin.privacy if result.privacy is None else sorted(result.privacy)
            made = await platform.complete(scratch / "output", schema_of(result), origin.licence, privacy)
        print(f"made {made.name}", flush=True)
    finally:
        await platform.close()


def _transform(
    ray_address: str,
    spec: Spec,
    scratch: Path,
    told: pb.GetTransformKeyResponse,
    privacy: frozenset[str],
    model: Model,
) -> tuple[Result, parts.Form]:
    source = parts.read(scratch / "input-")
    inputs = {name: parts.read(scratch / f"input-{name}") for name in spec.inputs}
    print(f"read {source.rows} rows in {', '.join(source.parts)}", flush=True)
    for left in source.left_out:
        print(f"left out {left}: no table and no image", flush=True)
    module = import_module(f"services.data.job.transforms.{spec.type}")
    with _engine(ray_address, told.ray_token) as engine:
        work = Work(spec.parameters, source, inputs, lambda: told.key, privacy, model, engine)
        result: Result = module.run(work)
    print(json.dumps(result.summary, sort_keys=True)[:2000], flush=True)
    return result, source.form


@contextmanager
def _engine(ray_address: str, token: str) -> Iterator[Engine]:
    if not ray_address:
        yield Local()
        return
    with closing(Ray(ray_address, token)) as engine:
        print(f"works on the Ray cluster at {ray_address}", flush=True)
        yield engine


def schema_of(result: Result) -> str:
    """Columns of the first part, as people read them."""
    for table in result.parts.values():
        return ", ".join(f"{each.name} {each.type}" for each in table.schema)[:4000]
    return ""


@contextmanager
def _traced(settings: Settings) -> Iterator[None]:
    if settings.telemetry and settings.token_file is not None:
        telemetry.setup_job("data.job", settings, token_file(settings.token_file))
    try:
        with telemetry.span("transform process", traceparent=os.environ.get("TRACEPARENT")):
            yield
    finally:
        telemetry.shutdown()


if __name__ == "__main__":
    main()
