"""Whether rows can be told apart by what others may know of people: the size of each group that is alike in that.

Source: Sweeney, k-Anonymity, 2002; Machanavajjhala et al., l-Diversity, 2007.
"""

from collections import Counter
from typing import Any

import numpy as np

from aios.errors import InvalidArgument
from services.data.job import charts
from services.data.job.rejects import Rejects
from services.data.job.work import Result, Work


def run(work: Work) -> Result:
    """Count the groups over all parts together; where asked, put rows of small ones aside."""
    known = [work.require("columns", each) for each in work.parameters["columns"]]
    if not known:
        raise InvalidArgument.of("parameters.columns", "must name what others may know, such as age and town")
    sensitive = work.parameters["sensitive"]
    k = int(work.parameters["k"])
    keys = {
        name: list(zip(*(_hashable(table[each].to_pylist()) for each in known), strict=True))
        for name, table in work.source.parts.items()
    }
    sizes = Counter(key for each in keys.values() for key in each)
    small = {key for key, size in sizes.items() if size < k}
    rows = sum(sizes[key] for key in small)
    summary = {
        "columns": known,
        "k": min(sizes.values(), default=0),
        "wanted": k,
        "groups": len(sizes),
        "groups_below": len(small),
        "rows_below": rows,
        "anonymous": not small,
    }
    if sensitive:
        summary["l"] = _diversity(work, keys, work.require("sensitive", sensitive))
    sections = [charts.table(["", ""], list(summary.items())), _plot(list(sizes.values()))]
    title = f"{summary['k']}-anonymous in {', '.join(known)}"
    if work.parameters["action"] == "report":
        return Result(title, summary, sections)
    rejects = Rejects(work.source.parts)
    for name, mine in keys.items():
        mask = np.array([key in small for key in mine], dtype=bool)
        rejects.add(name, mask, f"fewer than {k} rows are like it in {', '.join(known)}")
    kept, aside = rejects.divide(work.source.parts)
    return Result(title, summary, sections, kept, aside)


def _hashable(values: list[Any]) -> list[Any]:
    return [repr(value) if isinstance(value, list | dict) else value for value in values]


def _diversity(work: Work, keys: dict[str, list[tuple[object, ...]]], sensitive: str) -> int:
    """The least number of different secrets in a group."""
    values: dict[tuple[object, ...], set[object]] = {}
    for name, table in work.source.parts.items():
        for key, value in zip(keys[name], _hashable(table[sensitive].to_pylist()), strict=True):
            values.setdefault(key, set()).add(value)
    return min(map(len, values.values()), default=0)


def _plot(sizes: list[int]) -> str:
    bounds = [1, 2, 3, 5, 10, 20, 50, 100]
    counts = [
        sum(low <= size < high for size in sizes)
        for low, high in zip(bounds, [*bounds[1:], 10**12], strict=True)
    ]
    return charts.bars("Groups by their size", [f"{each}+" for each in bounds], counts)
