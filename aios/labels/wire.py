"""Labels as protos and back. Both ends of a call use this."""

from aios.data.v1 import annotation_pb2 as pb
from aios.errors import InvalidArgument
from aios.labels.values import Box, Keypoint, Keypoints, Kind, Label, Polygon, Span

_PREFIX = "KIND_"


def kind_from_proto(kind: "pb.LabelProject.Kind.ValueType", field: str) -> Kind:
    """A kind.

    Raises:
        InvalidArgument: naming `field`.
    """
    try:
        return Kind(pb.LabelProject.Kind.Name(kind).removeprefix(_PREFIX).lower())
    except ValueError:
        raise InvalidArgument.of(field, f"must be one of {', '.join(Kind)}") from None


def kind_to_proto(kind: Kind) -> "pb.LabelProject.Kind.ValueType":
    return pb.LabelProject.Kind.Value(_PREFIX + kind.name)


def label_from_proto(proto: pb.Label) -> Label:
    return Label(
        choices=tuple(proto.choices),
        spans=tuple(Span(each.start, each.end, each.label) for each in proto.spans),
        boxes=tuple(Box(each.label, each.x, each.y, each.width, each.height) for each in proto.boxes),
        polygons=tuple(
            Polygon(each.label, tuple(tuple(ring.coordinates) for ring in each.rings))
            for each in proto.polygons
        ),
        keypoints=tuple(
            Keypoints(
                each.label,
                tuple(Keypoint(point.name, point.x, point.y, point.visibility) for point in each.points),
            )
            for each in proto.keypoints
        ),
    )


def label_to_proto(label: Label) -> pb.Label:
    return pb.Label(
        choices=label.choices,
        spans=[pb.Span(start=each.start, end=each.end, label=each.label) for each in label.spans],
        boxes=[
            pb.Box(label=each.label, x=each.x, y=each.y, width=each.width, height=each.height)
            for each in label.boxes
        ],
        polygons=[
            pb.Polygon(label=each.label, rings=[pb.Ring(coordinates=ring) for ring in each.rings])
            for each in label.polygons
        ],
        keypoints=[
            pb.Keypoints(
                label=each.label,
                points=[
                    pb.Keypoint(name=point.name, x=point.x, y=point.y, visibility=point.visibility)
                    for point in each.points
                ],
            )
            for each in label.keypoints
        ],
    )
