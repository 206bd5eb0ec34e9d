"""Which role may do what: permissions are `noun.verb`, as each method's option states them. Deny by default."""

from collections.abc import Mapping
from types import MappingProxyType

PUBLIC = "public"
"""The permission of a method that needs no token."""

_ANNOTATOR = frozenset(
    [
        "caller.get",
        "label_projects.get",
        "label_projects.list",
        "label_tasks.lease",
        "label_tasks.submit",
    ]
)
_REVIEWER = _ANNOTATOR | frozenset(
    [
        "label_projects.report",
        "label_tasks.list",
        "label_tasks.watch",
        "label_tasks.review",
    ]
)
_VIEWER = frozenset(
    [
        "caller.get",
        "projects.get",
        "projects.list",
        "members.list",
        "jobs.get",
        "jobs.list",
        "jobs.watch",
        "jobs.logs",
        "jobs.explain",
        "jobs.history",
        "nodes.get",
        "nodes.list",
        "policy.get",
        "queues.get",
        "queues.list",
        "downloads.list",
        "datasets.get",
        "datasets.list",
        "models.get",
        "models.list",
        "checkpoints.list",
        "lineage.get",
        "transforms.get",
        "transforms.list",
        "ingest_sources.get",
        "ingest_sources.list",
        "devices.get",
        "devices.list",
        "edge_devices.get",
        "edge_devices.list",
        "label_projects.get",
        "label_projects.list",
        "label_projects.report",
        "label_tasks.list",
        "label_tasks.watch",
        "runs.get",
        "runs.list",
        "runs.watch",
        "experiments.get",
        "experiments.list",
        "metrics.list",
        "metrics.watch",
        "sweeps.get",
        "sweeps.list",
        "sweeps.report",
        "sweeps.watch",
        "trials.list",
        "deployments.get",
        "deployments.list",
        "deployments.watch",
        "traces.get",
        "traces.list",
        "predictions.create",
        "payloads.get",
        "explanations.get",
        "explanations.list",
        "drift_reports.get",
        "drift_reports.list",
        "alerts.get",
        "alerts.list",
    ]
)
_EDITOR = (
    _VIEWER
    | _REVIEWER
    | frozenset(
        [
            "jobs.create",
            "jobs.cancel",
            "uploads.begin",
            "uploads.complete",
            "datasets.create",
            "datasets.commit",
            "datasets.delete",
            "transforms.create",
            "ingest_sources.create",
            "ingest_sources.delete",
            "devices.create",
            "devices.delete",
            "edge_devices.create",
            "edge_devices.delete",
            "edge_bundles.create",
            "dead_messages.list",
            "label_projects.create",
            "label_projects.delete",
            "label_tasks.add",
            "label_tasks.prepare",
            "label_tasks.resolve",
            "models.create",
            "models.register",
            "models.alias",
            "models.delete",
            "checkpoints.delete",
            "runs.create",
            "runs.cancel",
            "runs.track",
            "experiments.create",
            "experiments.update",
            "experiments.delete",
            "sweeps.create",
            "sweeps.cancel",
            "deployments.create",
            "deployments.update",
            "deployments.delete",
            "explanations.create",
            "feedback.report",
            "drift_reports.create",
            "alerts.create",
            "alerts.delete",
        ]
    )
)
_ADMIN = _EDITOR | frozenset(
    [
        "members.set",
        "members.delete",
        "datasets.erase",
        "audit.list",
        "tokens.create",
        "tokens.list",
        "tokens.revoke",
    ]
)
_WORKER = frozenset(
    [
        "caller.get",
        "jobs.report_progress",
        "uploads.begin",
        "uploads.complete",
        "downloads.list",
        "datasets.get",
        "transforms.complete",
        "transforms.get_key",
        "models.get",
        "checkpoints.create",
        "checkpoints.list",
        "runs.get",
        "runs.track",
        "experiments.create",
        "experiments.get",
        "metrics.list",
        "run_attempts.begin",
        "run_attempts.report",
        "run_attempts.complete",
        "replicas.get_spec",
        "replicas.report",
        "payloads.report",
        "explanations.complete",
        "spans.write",
    ]
)
_SERVICE = _VIEWER | frozenset(
    [
        "jobs.create",
        "jobs.cancel",
        "datasets.create",
        "datasets.commit",
        "datasets.delete",
        "transforms.create",
        "models.create",
        "models.register",
        "models.alias",
        "models.delete",
        "checkpoints.create",
        "lineage.record",
        "routes.watch",
        "routes.confirm",
        "traffic.report",
        "revocations.watch",
        "spans.write",
    ]
)
_NODE = frozenset(
    [
        "caller.get",
        "agents.connect",
        "agents.push_logs",
        "worker_tokens.issue",
        "revocations.watch",
        "spans.write",
    ]
)

ROLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "viewer": _VIEWER,
        "editor": _EDITOR,
        "admin": _ADMIN,
        "annotator": _ANNOTATOR,
        "reviewer": _REVIEWER,
        "worker": _WORKER,
        "service": _SERVICE,
        "node": _NODE,
    }
)
INTERNAL = ("service", "node", "worker")
"""The platform's own processes: their calls keep it going, and wait for nobody else's."""
OPERATOR = frozenset(
    {
        "projects.create",
        "data.reindex",
        "data.encrypt",
        "nodes.update",
        "policy.update",
        "policy.preview",
        "queues.create",
        "queues.update",
        "queues.delete",
        "dead_events.list",
        "dead_events.redeliver",
        "dead_events.delete",
    }
)
"""What an operator may do beyond the role in the token."""

KNOWN = frozenset().union(*ROLES.values(), OPERATOR, {PUBLIC})
"""Every permission somebody has: a method that states another one is a mistake."""


def allows(role: str, permission: str, *, operator: bool = False) -> bool:
    """Whether a caller with this role may use a method with this permission."""
    return (
        permission == PUBLIC
        or permission in ROLES.get(role, frozenset())
        or (operator and permission in OPERATOR)
    )
