"""The public face of label projects: convert, call, convert. Methods lie in a file for each who calls them."""

from aios.data.v1 import annotation_service_pb2_grpc
from services.data.annotation.project_rpcs import LabelProjectRpcs
from services.data.annotation.review_rpcs import LabelReviewRpcs
from services.data.annotation.task_rpcs import LabelTaskRpcs
from services.data.annotation.work_rpcs import LabelWorkRpcs


class AnnotationServicer(
    LabelProjectRpcs,
    LabelTaskRpcs,
    LabelReviewRpcs,
    LabelWorkRpcs,
    annotation_service_pb2_grpc.AnnotationServiceServicer,
):
    """The caller may touch the project: the interceptor has seen to it."""
