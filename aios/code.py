"""A working tree as one archive: packed where it is submitted, unpacked where it runs.

The archive holds regular files alone, in the order of their paths, without times or owners: the same tree is the same
bytes on every machine, so its digest names the code.
"""

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aios.errors import FailedPrecondition, InvalidArgument

ARCHIVE = "code.tar"
CODE_DATASET = "run-code"
"""The dataset of a project whose versions are what its commands run."""
BYTES_MAX = 100 << 20  # code, not data: a tree with more has something to ignore in it
FILES_MAX = 20_000
IGNORE_FILES = (".gitignore", ".aiosignore")
"""Read in every folder, in git's own language; what stands in the later one decides."""
ALWAYS_IGNORED = (".git", "__pycache__", ".venv", ".ipynb_checkpoints")


class BadArchive(FailedPrecondition):
    """An archive of code holds what none that this platform packs does."""

    reason = "BAD_ARCHIVE"


@dataclass(frozen=True)
class Tree:
    """What of a folder is packed."""

    files: Sequence[PurePosixPath]
    skipped: Sequence[PurePosixPath]
    """Links, sockets and the like, which are not."""


def pack(root: Path, target: Path) -> Tree:
    """Write the archive of `root` to `target`.

    Raises:
        InvalidArgument: the tree is too large; the message names what weighs most.
    """
    tree = find(root)
    sizes = {path: (root / path).stat().st_size for path in tree.files}
    total = sum(sizes.values())
    if total > BYTES_MAX or len(sizes) > FILES_MAX:
        heaviest = ", ".join(
            f"{path} ({sizes[path] >> 20} MiB)" for path in sorted(sizes, key=sizes.__getitem__)[:-4:-1]
        )
        raise InvalidArgument.of(
            "code",
            f"{root} has {len(sizes)} files of {total >> 20} MiB; at most {FILES_MAX} of {BYTES_MAX >> 20} MiB are "
            f"sent: name what is no code in .aiosignore, data belongs into a dataset. Largest: {heaviest}",
        )
    write_archive(target, ((path, _member(root / path)) for path in tree.files))
    return tree


@dataclass(frozen=True)
class Member:
    """A file of an archive."""

    content: bytes
    executable: bool = False


def write_archive(target: Path, members: Iterable[tuple[PurePosixPath, Member]]) -> None:
    """Write files in the order given, which is that of their paths."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for path, member in members:
            about = tarfile.TarInfo(str(path))
            about.size = len(member.content)
            about.mode = 0o755 if member.executable else 0o644
            archive.addfile(about, io.BytesIO(member.content))


def _member(path: Path) -> Member:
    with path.open("rb") as file:
        return Member(file.read(), executable=bool(os.fstat(file.fileno()).st_mode & stat.S_IXUSR))


def export(root: Path, ref: str, target: Path) -> None:
    """Write the tree of a commit, tag or branch into the folder `target`: what git has of `root`, whatever lies there now.

    Raises:
        InvalidArgument: `root` is in no repository that has it, or there is no git.
    """
    archive = ["git", "-C", str(root), "archive", "--format=tar", "--end-of-options", ref]
    try:
        done = subprocess.run(archive, capture_output=True, check=True)
    except FileNotFoundError:
        raise InvalidArgument.of("ref", "needs `git` on PATH") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise InvalidArgument.of(
            "ref", f"{ref!r} cannot be read: {said[-1] if said else 'git failed'}"
        ) from None
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tree:
        tree.extractall(target, filter="data")


def find(root: Path) -> Tree:
    """The files of a tree that are its code, by path.

    Raises:
        InvalidArgument: it is no folder, or holds no file.
    """
    if not root.is_dir():
        raise InvalidArgument.of("code", f"no folder {str(root)!r}")
    files: list[PurePosixPath] = []
    skipped: list[PurePosixPath] = []
    for path, regular in _walk(root, PurePosixPath(), ()):
        (files if regular else skipped).append(path)
    if not files:
        raise InvalidArgument.of("code", f"{str(root)!r} holds no file that is not ignored")
    return Tree(sorted(files), sorted(skipped))


def unpack(archive: Path, target: Path) -> None:
    """Write what an archive holds below `target`, which is made.

    Raises:
        BadArchive: it holds anything but regular files with paths inside, each once, within the limits.
    """
    target.mkdir(parents=True)
    seen: set[str] = set()
    total = 0
    try:
        with tarfile.open(archive, "r:") as opened:
            for member in opened:
                path = PurePosixPath(member.name)
                if not member.isreg() or path.is_absolute() or ".." in path.parts or member.name in seen:
                    raise BadArchive(f"{member.name!r} is no plain file inside the archive.")
                seen.add(member.name)
                total += member.size
                if total > BYTES_MAX or len(seen) > FILES_MAX:
                    raise BadArchive(f"More than {FILES_MAX} files or {BYTES_MAX} bytes.")
                content = opened.extractfile(member)
                assert content is not None
                file = target / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content.read())
                file.chmod(0o755 if member.mode & stat.S_IXUSR else 0o644)
    except (tarfile.TarError, OSError) as error:
        raise BadArchive(f"The archive cannot be read: {error}") from error


Rules = Sequence[tuple[PurePosixPath, object]]
"""The ignore files above a place, outermost first: where each lies, and its patterns."""


def _walk(root: Path, folder: PurePosixPath, above: Rules) -> Iterator[tuple[PurePosixPath, bool]]:
    """Paths that are not ignored, and whether each is a regular file. Links are not followed."""
    rules = [*above, *_rules(root, folder)]
    with os.scandir(root / folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = folder / entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.name in ALWAYS_IGNORED or _is_ignored(path, is_folder, rules):
                continue
            if is_folder:
                yield from _walk(root, path, rules)
            else:
                yield path, entry.is_file(follow_symlinks=False)


def _rules(root: Path, folder: PurePosixPath) -> Iterator[tuple[PurePosixPath, object]]:
    from pathspec import GitIgnoreSpec

    for name in IGNORE_FILES:
        file = root / folder / name
        if file.is_file():
            yield folder, GitIgnoreSpec.from_lines(file.read_text(errors="replace").splitlines())


def _is_ignored(path: PurePosixPath, is_folder: bool, rules: Rules) -> bool:
    from pathspec import GitIgnoreSpec

    for folder, spec in reversed(rules):
        assert isinstance(spec, GitIgnoreSpec)
        found = spec.check_file(f"{path.relative_to(folder)}{'/' if is_folder else ''}").include
        if found is not None:
            return found
    return False
