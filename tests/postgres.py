"""A real PostgreSQL for tests: Debian's server in a temporary folder, on a free port, under an account that is not root.

AIOS_TEST_POSTGRES_URL names a running one instead.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from sqlalchemy import make_url

from tests.servers import free_port, wait_for_port

DEBIAN = Path("/usr/lib/postgresql")
UNPRIVILEGED = ("postgres", "nobody")
"""Who runs it where the tests are root: PostgreSQL refuses root."""
PASSWORD = "known-to-this-test-only"


@dataclass
class PostgresServer:
    """A PostgreSQL that a test can kill and start again on the same port."""

    directory: Path
    programs: Path
    port: int
    account: str | None
    """Who runs it; None: whoever runs the tests."""
    fsync: bool
    """Off, a killed process still loses nothing; only a machine without power would."""
    process: subprocess.Popen[bytes] | None = None

    def database(self) -> str:
        """The SQLAlchemy URL of a new, empty database."""
        return new_database(f"postgresql+psycopg://aios:{PASSWORD}@127.0.0.1:{self.port}/postgres")

    def create(self) -> None:
        """Make its folder. It lies beside pytest's, which other accounts cannot enter."""
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        if self.account:
            for path in (self.directory, secret):
                shutil.chown(path, self.account)
        initdb = [
            str(self.programs / "initdb"),
            "-D",
            str(self.directory / "data"),
            "-U",
            "aios",
            "-E",
            "UTF8",
        ]
        options = ["--no-sync", "--no-locale", "-A", "scram-sha-256", f"--pwfile={secret}"]
        subprocess.run([*self._as_account(), *initdb, *options], check=True, capture_output=True, cwd="/")

    def start(self) -> None:
        """Start it, after a crash with a recovery from its log; return when it takes connections."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "on" if self.fsync else "off",
            "max_connections": 50,
            "shared_buffers": "16MB",
        }
        command = [*self._as_account(), str(self.programs / "postgres"), "-D", str(self.directory / "data")]
        command += [f"-c{name}={value}" for name, value in settings.items()]
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        wait_for_port(self.port, self.process)
        ready = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        for _ in range(100):  # it listens before it has recovered
            if subprocess.run(ready, check=False).returncode == 0:
                return
            assert self.process.poll() is None, (self.directory / "server.log").read_text()
        raise AssertionError("PostgreSQL did not recover in time")

    def kill(self) -> None:
        """kill -9, every process of it; one that lived on would hold the memory that the next server needs."""
        self._signal_all(signal.SIGSTOP)  # it begins no more of them
        children = self._children()
        self._signal_all(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
            self.process = None
        psutil.wait_procs(children, timeout=10)

    def pause(self) -> None:
        """SIGSTOP, every process of it: connections stay open and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal_all(signal.SIGCONT)

    def _as_account(self) -> list[str]:
        # A program of its own: Popen's way to another account forks this process, whose gRPC threads do not survive it.
        if self.account is None:
            return []
        group = pwd.getpwnam(self.account).pw_gid
        return ["setpriv", f"--reuid={self.account}", f"--regid={group}", "--clear-groups"]

    def _signal_all(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        with suppress(psutil.NoSuchProcess):
            server = psutil.Process(self.process.pid)
            for each in (server, *self._children()):
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(number)

    def _children(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children() if self.process is not None else []
        return []


def programs() -> Path | None:
    """Where PostgreSQL's server programs are: Debian keeps them out of PATH. None where there are none."""
    found = sorted(DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


def new_database(url: str) -> str:
    """The SQLAlchemy URL of a new, empty database on the same server."""
    return copy_database(make_url(url).set(database="template1").render_as_string(hide_password=False))


def copy_database(url: str) -> str:
    """The SQLAlchemy URL of a new database that holds what this one holds. Nobody may be connected to it."""
    origin = make_url(url)
    name = f"t{secrets.token_hex(4)}"
    plain = origin.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{origin.database}"'.encode())
    return origin.set(database=name).render_as_string(hide_password=False)


def drop_database(url: str) -> None:
    """Delete a database, whoever is connected to it."""
    gone = make_url(url)
    plain = gone.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{gone.database}" WITH (FORCE)'.encode())


def why_not() -> str:
    """Why no PostgreSQL can run here; empty where one can."""
    if programs() is None:
        return "no PostgreSQL server: apt install postgresql, or set AIOS_TEST_POSTGRES_URL"
    if os.geteuid() == 0 and _account() is None:
        return f"PostgreSQL refuses root, and there is no account {' or '.join(UNPRIVILEGED)}"
    return ""


@contextmanager
def postgres_server(*, fsync: bool = False) -> Iterator[PostgresServer]:
    """A running PostgreSQL. Its folder is a short path of its own, removed at the end."""
    found = programs()
    assert found is not None
    with tempfile.TemporaryDirectory(prefix="aios-postgres-") as directory:
        server = PostgresServer(Path(directory), found, free_port(), _account(), fsync)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.kill()


def _account() -> str | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in UNPRIVILEGED if name in known), None)
