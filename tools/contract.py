"""Lay out everything that a client in another language is generated from.

    python tools/contract.py build/contract

The folder then holds our protos, those of `google/api` and `google/rpc` that they and their errors need, and
`inference.binpb`: the Open Inference Protocol as a descriptor set, read from the installed tritonclient, so that
what clients generate is what predictions are served by. Nothing here reaches the network.
"""

import argparse
import shutil
from pathlib import Path

from google.api import annotations_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tritonclient.grpc import service_pb2

PROTOS = Path(__file__).resolve().parent.parent / "protos"
GOOGLE = (
    "google/api/annotations.proto",
    "google/api/field_behavior.proto",
    "google/api/http.proto",
    "google/rpc/code.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
)
"""What our protos import, and what the details of an error are made of."""
INFERENCE = "inference.binpb"


def main() -> None:
    """Write the folder that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    export(parser.parse_args().folder)


def export(folder: Path) -> None:
    """Write the folder anew: what a proto was renamed from must not stay.

    Files keep the times of what they are copied from, so that nothing is built again which did not change.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PROTOS, folder, ignore=shutil.ignore_patterns("released"))
    installed = Path(annotations_pb2.__file__).parents[2]
    for name in GOOGLE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(installed / name, folder / name)
    (folder / INFERENCE).write_bytes(_closure(service_pb2.DESCRIPTOR).SerializeToString())
    shutil.copystat(service_pb2.__file__, folder / INFERENCE)


def _closure(file: FileDescriptor) -> FileDescriptorSet:
    """A file and what it imports, each before what needs it."""
    found: dict[str, FileDescriptor] = {}

    def add(one: FileDescriptor) -> None:
        for dependency in one.dependencies:
            add(dependency)
        found.setdefault(one.name, one)

    add(file)
    files = FileDescriptorSet()
    for one in found.values():
        one.CopyToProto(files.file.add())
    return files


if __name__ == "__main__":
    main()
