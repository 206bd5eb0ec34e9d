"""Rows of the lineage graph."""

from collections.abc import Iterable

from sqlalchemy import insert, select

from aios.records import Tx
from services.data.lineage import Direction, Edge, Relation
from services.data.tables import lineage


def missing(tx: Tx, project: str, edges: Iterable[Edge]) -> list[Edge]:
    """Those that the graph lacks."""
    return [edge for edge in dict.fromkeys(edges) if not _known(tx, project, edge)]


def add_edges(tx: Tx, project: str, edges: Iterable[Edge]) -> None:
    """Fold: the graph has these edges too."""
    for edge in missing(tx, project, edges):
        tx.execute(insert(lineage).values(_row(project, edge)))


def edges_at(tx: Tx, project: str, names: Iterable[str], way: Direction) -> list[Edge]:
    """The edges into (UP) or out of (DOWN) some resources."""
    column = lineage.c.target if way is Direction.UP else lineage.c.source
    query = select(lineage).where(lineage.c.project == project, column.in_(list(names)))
    return [Edge(row.source, row.target, Relation(row.relation)) for row in tx.execute(query)]


def _known(tx: Tx, project: str, edge: Edge) -> bool:
    return tx.execute(select(lineage.c.source).filter_by(**_row(project, edge))).one_or_none() is not None


def _row(project: str, edge: Edge) -> dict[str, str]:
    return {
        "project": project,
        "source": edge.source,
        "target": edge.target,
        "relation": edge.relation.value,
    }
