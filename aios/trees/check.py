"""What a tree that somebody else wrote must keep to before it becomes a version."""

import pyarrow as pa
import pyarrow.compute as pc

from aios.trees.tree import PARTS_MAX, Tree

NAMED_MAX = 20  # paths in one answer


def path_problems(tree: Tree) -> dict[str, str]:
    """Files whose bytes cannot be put together as stated, and paths that cannot lie in one folder, by path.

    What a path may look like at all is the manifest's rule.
    """
    table = tree.table
    paths = table["path"].combine_chunks()
    found: dict[str, str] = {}
    if len(paths) > 1:
        unsorted = pc.greater_equal(paths[:-1], paths[1:])
        for path in paths[1:].filter(unsorted)[:NAMED_MAX].to_pylist():
            found[path] = "stands twice, or before a smaller path"
    folders = paths
    while len(folders := _folders(folders)):
        for path in paths.filter(pc.is_in(paths, folders))[:NAMED_MAX].to_pylist():
            found[path] = "is a file of this version, so it cannot be a folder"
    return found | _part_problems(tree)


def _folders(paths: "pa.Array") -> "pa.Array":
    below = paths.filter(pc.match_substring(paths, "/"))
    return pc.unique(pc.replace_substring_regex(below, r"/[^/]*$", ""))


def _part_problems(tree: Tree) -> dict[str, str]:
    table = tree.table
    made = table.filter(pc.is_valid(table["parts"]))
    found = dict.fromkeys(
        table.filter(pc.less(table["size_bytes"], 0))["path"][:NAMED_MAX].to_pylist(), "has a negative size"
    )
    if not made.num_rows:
        return found
    parts = tree.parts()
    if parts.num_rows > PARTS_MAX:
        return found | {made["path"][0].as_py(): f"its version has more than {PARTS_MAX} parts"}
    owner = pc.list_parent_indices(made["parts"].combine_chunks())
    bad = pc.or_(pc.less(parts["offset"], 0), pc.less_equal(parts["size"], 0))
    for index in pc.unique(owner.filter(bad.combine_chunks()))[:NAMED_MAX].to_pylist():
        found[made["path"][index].as_py()] = "has a part of no size or before its blob"
    sums = pa.table({"owner": owner, "size": parts["size"]}).group_by("owner").aggregate([("size", "sum")])
    stated = made["size_bytes"].combine_chunks().take(sums["owner"].combine_chunks())
    wrong = sums["owner"].combine_chunks().filter(pc.not_equal(stated, sums["size_sum"].combine_chunks()))
    for index in wrong[:NAMED_MAX].to_pylist():
        found[made["path"][index].as_py()] = "is not as long as its parts together"
    if sums.num_rows != made.num_rows:
        found[made["path"][0].as_py()] = "has an empty list of parts"
    return found
