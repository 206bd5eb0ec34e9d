"""Protos of sources to domain and back."""

from datetime import timedelta

from aios.data.v1 import ingest_pb2 as pb
from aios.errors import InvalidArgument
from aios.names import DatasetName, DeviceName, IngestSourceName, check_id
from services.data.intake.sources import (
    LATENESS_SECONDS,
    WINDOW_ROWS,
    WINDOW_SECONDS,
    Column,
    Source,
    Type,
    user_of,
)

_FAR = 10**9  # seconds: what is beyond is refused by the rules, and fits a timedelta


def source_from_proto(asked: pb.IngestSource, name: IngestSourceName, at: str = "ingest_source") -> Source:
    """What a caller or a row states, with what was left out filled in. Not checked yet."""
    dataset = DatasetName.parse(asked.dataset, f"{at}.dataset")
    check_id(dataset.dataset, f"{at}.dataset")
    if dataset.project != name.project:
        raise InvalidArgument.of(f"{at}.dataset", f"must lie in projects/{name.project}")
    return Source(
        name,
        dataset,
        [_column(column, f"{at}.columns[{index}]") for index, column in enumerate(asked.columns)],
        asked.time_column,
        _seconds(asked.window_seconds or WINDOW_SECONDS),
        asked.window_rows or WINDOW_ROWS,
        _seconds(asked.max_lateness_seconds or LATENESS_SECONDS),
    )


def source_to_proto(source: Source) -> pb.IngestSource:
    return pb.IngestSource(
        name=str(source.name),
        dataset=str(source.dataset),
        columns=[
            pb.IngestColumn(
                name=column.name,
                type=pb.IngestColumn.Type.Value(f"TYPE_{column.type.name}"),
                required=column.required,
                min=column.min,
                max=column.max,
            )
            for column in source.columns
        ],
        time_column=source.time_column,
        window_seconds=int(source.window.total_seconds()),
        window_rows=source.rows,
        max_lateness_seconds=int(source.lateness.total_seconds()),
        topic=f"ingest/{source.name.project}/{source.name.ingest_source}",
    )


def device_to_proto(name: DeviceName) -> pb.Device:
    return pb.Device(name=str(name), user=user_of(name), topic=f"ingest/{user_of(name)}")


def _column(column: pb.IngestColumn, at: str) -> Column:
    known = {pb.IngestColumn.Type.Value(f"TYPE_{each.name}"): each for each in Type}
    if column.type not in known:
        raise InvalidArgument.of(f"{at}.type", f"must be one of {', '.join(Type)}")
    return Column(
        column.name,
        known[column.type],
        column.required,
        column.min if column.HasField("min") else None,
        column.max if column.HasField("max") else None,
    )


def _seconds(value: int) -> timedelta:
    return timedelta(seconds=max(-_FAR, min(value, _FAR)))
