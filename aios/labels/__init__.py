"""Labels as people give them: what one is, how well several agree, which items to label next, and other tools' files.

Pure: no network, no store, no clock. The data service applies these rules, and the client speaks in these values.
"""

from aios.labels.values import (
    Box,
    Keypoint,
    Keypoints,
    Kind,
    Label,
    Polygon,
    Size,
    Span,
    check_label,
    similarity_of,
)

__all__ = [
    "Box",
    "Keypoint",
    "Keypoints",
    "Kind",
    "Label",
    "Polygon",
    "Size",
    "Span",
    "check_label",
    "similarity_of",
]
