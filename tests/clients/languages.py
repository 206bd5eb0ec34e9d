"""The languages that `clients/` has a program for: what each needs, how it is built and started."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
GOCODE = Path("/usr/share/gocode/src/google.golang.org")
JARS = Path("/usr/share/java")
INCLUDE = Path("/usr/include")

ASKED = os.environ.get("AIOS_TEST_CLIENTS", "")
"""Empty: none. `quick`: those that are built in seconds, as continuous integration does. Anything else: all."""
NOT_ASKED = "" if ASKED else "takes minutes and toolchains: make test-clients"
"""Why nothing here runs, where it does not."""
NOT_ALL_ASKED = "" if ASKED not in ("", "quick") else "fetches many packages: make test-clients"
"""The same of what needs an environment of its own."""


@dataclass(frozen=True)
class Language:
    """One client program."""

    name: str
    tools: Sequence[str]
    """Commands that must be on the PATH."""
    build: Sequence[Sequence[str]]
    start: Sequence[str]
    libraries: Sequence[Path] = ()
    """Files or folders that must be there."""
    environment: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False
    """Building it takes minutes."""

    @property
    def folder(self) -> Path:
        return REPOSITORY / "clients" / self.name

    def skipped(self) -> str:
        """Why it does not run here, in words; empty when it does. What this machine lacks of the toolchain is named."""
        if NOT_ASKED:
            return NOT_ASKED
        if self.slow and ASKED == "quick":
            return f"{self.name}: takes minutes to build: make test-clients"
        lacking = [tool for tool in self.tools if shutil.which(tool) is None]
        lacking += [str(path) for path in self.libraries if not path.exists()]
        return f"{self.name}: no {', '.join(lacking)}" if lacking else ""


LANGUAGES = (
    Language(
        "typescript",
        tools=("node", "npm"),
        build=(("npm", "ci", "--ignore-scripts"), ("npm", "run", "build")),
        start=("node", "build/src/main.js"),
    ),
    Language(
        "go",
        tools=("go", "make", "protoc", "protoc-gen-go", "protoc-gen-go-grpc"),
        libraries=(GOCODE / "grpc", GOCODE / "protobuf", GOCODE / "genproto"),
        build=(("make",),),
        start=("build/aios-client",),
        # Before 1.40, which Debian 12 has not, retries must be asked for.
        environment={"GRPC_GO_RETRY": "on"},
    ),
    Language(
        "java",
        tools=("java", "javac", "make", "protoc", "grpc_java_plugin"),
        libraries=(JARS / "grpc-netty.jar", JARS / "gson.jar", JARS / "geronimo-annotation-1.3-spec.jar"),
        build=(("make",),),
        start=("build/aios-client",),
    ),
    Language(
        "cpp",
        tools=("cmake", "g++", "pkg-config", "protoc", "grpc_cpp_plugin"),
        libraries=tuple(INCLUDE / name for name in ("grpcpp", "nlohmann/json.hpp", "openssl/evp.h")),
        build=(("cmake", "-B", "build"), ("cmake", "--build", "build")),
        start=("build/aios-client",),
        slow=True,
    ),
    Language(
        "ruby",
        tools=("ruby", "rake", "grpc_tools_ruby_protoc"),
        build=(("rake",),),
        start=("ruby", "main.rb"),
    ),
)
