"""Keep the code under `aios/<domain>/v1/` equal to the contract under `protos/`.

    python tools/protos.py generate   write the Python modules and their type stubs
    python tools/protos.py check      fail if the committed modules differ from what `generate` writes
    python tools/protos.py lint       buf's rules, then our own: permission and HTTP rule on every method
    python tools/protos.py breaking   fail if a client of the last release would no longer be understood

Nothing here reaches the network: `google/api` and `google/rpc` come from the installed googleapis-common-protos,
so buf needs no registry. Exit status is 0 or 1, and every complaint names a file.
"""

import argparse
import filecmp
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
RELEASED = PROTOS / "released"
"""The contract as each release had it: descriptor sets, by version."""
BIN = Path(sys.executable).parent
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
COMMENTS = Path("aios/comments.json")
"""What the protos say about each name: generated code forgets it, and documentation written from it needs it."""
IMPORTS = ("google/api", "google/rpc")
PERMISSION_OPTION = "aios.common.v1.permission"
HTTP_OPTION = "google.api.http"


def main() -> int:
    """Run one command and return the process's exit status."""
    commands = {"generate": generate, "check": check, "lint": lint, "breaking": breaking}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=commands)
    return commands[parser.parse_args().command]()


def generate() -> int:
    """Write the modules of every proto and remove those whose proto is gone."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        if not _compile(fresh):
            return 1
        wanted = _generated(fresh)
        for stale in _generated(ROOT) - wanted:
            (ROOT / stale).unlink()
        for path in wanted:
            target = ROOT / path
            if not _same(fresh / path, target):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(fresh / path, target)
    print(f"{len(wanted)} generated files are up to date")
    return 0


def check() -> int:
    """Compare, without writing, what is committed with what `generate` would write."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        if not _compile(fresh):
            return 1
        paths = _generated(fresh) | _generated(ROOT)
        stale = sorted(path for path in paths if not _same(fresh / path, ROOT / path))
    for path in stale:
        print(f"{path}: does not match protos/; run `make proto`", file=sys.stderr)
    return 1 if stale else 0


def lint() -> int:
    """Apply buf.yaml, then the two promises that buf cannot check."""
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Path(scratch)
        _buf_workspace(workspace)
        if subprocess.run([BIN / "buf", "lint", "protos"], cwd=workspace, check=False).returncode:
            return 1
    complaints = [complaint for file in _files() for complaint in _unpromised(file)]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


def record(image: Path) -> None:
    """Write the contract as one descriptor set: what `breaking` compares."""
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Path(scratch)
        _buf_workspace(workspace)
        command = [str(BIN / "buf"), "build", "--exclude-source-info", "--output", str(image)]
        subprocess.run(command, cwd=workspace, check=True)


def breaking() -> int:
    """Compare with the last release, by the rules of buf.yaml."""
    versions = sorted(RELEASED.glob("*.binpb"), key=lambda path: [int(part) for part in path.stem.split(".")])
    # Built first: of a workspace, buf compares each module with all that was recorded.
    config = yaml.safe_load((ROOT / "buf.yaml").read_text())
    rules = json.dumps({"version": config["version"], "breaking": config["breaking"]})
    with tempfile.TemporaryDirectory() as scratch:
        now = Path(scratch, "now.binpb")
        record(now)
        command = [str(BIN / "buf"), "breaking", str(now), "--against", str(versions[-1]), "--config", rules]
        return subprocess.run(command, cwd=scratch, check=False).returncode


def _compile(out: Path) -> bool:
    """Run protoc over all protos into `out`; its own messages say what is wrong."""
    protos = _protos()
    services = [proto for proto in protos if proto.stem.endswith("_service")]
    # Servicers and stubs are asyncio only, so their types need no "either sync or async" unions.
    grpc = (f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet,only_async:{out}")
    if not _protoc(protos, f"--python_out={out}", f"--mypy_out=quiet:{out}") or not _protoc(services, *grpc):
        return False
    if not _write_comments(protos, out):
        return False
    for directory in sorted({(out / proto.relative_to(PROTOS)).parent for proto in protos}):
        package = ".".join(directory.relative_to(out).parts)
        (directory / "__init__.py").write_text(
            f'"""Generated from the protos of package {package}; never edited."""\n'
        )
        # aios/<domain>/ holds versions only; aios/ itself is written by hand.
        (directory.parent / "__init__.py").write_text(
            f'"""The versions of the {directory.parent.name} contract."""\n'
        )
    return True


def _write_comments(protos: list[Path], out: Path) -> bool:
    """Write the comment of every service, method, message, field and enum value that has one, by its full name."""
    described = out / "described.binpb"
    if not _protoc(protos, f"--descriptor_set_out={described}", "--include_source_info"):
        return False
    files = FileDescriptorSet.FromString(described.read_bytes()).file
    described.unlink()
    comments = dict(comment for file in files for comment in _comments(file))
    (out / COMMENTS).write_text(json.dumps(comments, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return True


def _comments(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for location in file.source_code_info.location:
        text = "\n".join(line.removeprefix(" ") for line in location.leading_comments.splitlines())
        if not text:
            continue
        # Source: SourceCodeInfo.Location.path in descriptor.proto: field number and index, from the file down.
        found: Any = file
        names = [file.package]
        for number, index in zip(location.path[::2], location.path[1::2], strict=False):
            found = getattr(found, found.DESCRIPTOR.fields_by_number[number].name)[index]
            names.append(found.name)
        if len(location.path) % 2 == 0 and len(names) > 1:
            # Lines are wrapped in the proto only.
            yield ".".join(names), "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _protoc(protos: list[Path], *outputs: str) -> bool:
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{_googleapis()}", *outputs]
    # protoc finds its plugins on PATH, and the venv need not be activated.
    path = os.pathsep.join((str(BIN), os.environ.get("PATH", os.defpath)))
    done = subprocess.run([*command, *protos], env={**os.environ, "PATH": path}, check=False)
    return done.returncode == 0


def _protos() -> list[Path]:
    """Every proto of the contract, in an order that keeps output and errors stable."""
    return sorted(PROTOS.glob("aios/*/v*/*.proto"))


def _generated(root: Path) -> set[Path]:
    """Paths, relative to `root`, of everything that belongs to the generator."""
    packages = {directory for directory in root.glob("aios/*/v*") if any(directory.glob("*_pb2.py"))}
    files = {file for package in packages for pattern in GENERATED for file in package.glob(pattern)}
    inits = {directory / "__init__.py" for package in packages for directory in (package, package.parent)}
    return {file.relative_to(root) for file in files | inits} | {COMMENTS}


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def _googleapis() -> Path:
    """The folder that holds `google/api/annotations.proto`."""
    spec = find_spec("google.api")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("googleapis-common-protos is missing: run `make install`")
    return Path(next(iter(spec.submodule_search_locations))).parents[1]


def _buf_workspace(workspace: Path) -> None:
    """Lay our protos and the ones that they import side by side, since buf cannot look outside its workspace."""
    shutil.copytree(PROTOS, workspace / "protos")
    for name in IMPORTS:
        for proto in (_googleapis() / name).glob("*.proto"):
            target = workspace / "imports" / name / proto.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(proto, target)
    config = yaml.safe_load((ROOT / "buf.yaml").read_text())
    config["modules"].append({"path": "imports"})
    (workspace / "buf.yaml").write_text(yaml.safe_dump(config))


def _files() -> Iterator[FileDescriptor]:
    """Descriptors of the committed modules; `check` says whether they are those of protos/."""
    sys.path.insert(0, str(ROOT))
    for proto in _protos():
        module = ".".join(proto.relative_to(PROTOS).with_suffix("").parts) + "_pb2"
        yield importlib.import_module(module).DESCRIPTOR


def _unpromised(file: FileDescriptor) -> Iterator[str]:
    """Complain about methods without a permission (deny by default needs one) or an HTTP rule."""
    for service in file.services_by_name.values():
        if not file.name.endswith("_service.proto"):
            yield f"protos/{file.name}: {service.name} belongs in a file named *_service.proto"
        for method in service.methods:
            for option in (PERMISSION_OPTION, HTTP_OPTION):
                if not _has_option(method, option):
                    yield f"protos/{file.name}: {service.name}.{method.name} has no option ({option})"


def _has_option(method: MethodDescriptor, name: str) -> bool:
    extension = descriptor_pool.Default().FindExtensionByName(name)
    return any(field == extension for field, _ in method.GetOptions().ListFields())


if __name__ == "__main__":
    sys.exit(main())
