"""What a model server counts becomes figures of the last seconds."""

from aios.inference.v1.deployment_pb2 import RevisionFigures
from gateway.http import metrics
from services.inference.replica import work as said
from services.inference.work import Work, Works

METRICS = """# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="digits",version="1"} 40
nv_inference_count{model="digits",version="1"} 64
nv_inference_exec_count{model="digits",version="1"} 16
nv_inference_queue_duration_us{model="digits",version="1"} 8000
nv_inference_compute_infer_duration_us{model="digits",version="1"} 20000
nv_inference_count{model="other",version="1"} 7
aios_completion_tokens{model="digits",version="1"} 1.2e3
nv_energy_consumption{gpu_uuid="GPU-1"} 12.5
nv_inference_count{model="digits",version="1"} nonsense
"""


def test_the_servers_metrics_are_read_of_the_one_model() -> None:
    assert said.work_of(METRICS, "digits") == Work(40, 64, 16, 8000, 20000, 0, 1200)
    assert said.work_of("", "digits") == Work()


def test_what_replicas_did_lately_is_added_up() -> None:
    works = Works[str]()
    for second in range(20):
        works.note("a", 1, Work(requests=10 * second, rows=20 * second), float(second))
        works.note("b", 1, Work(requests=second), float(second))
    done, seconds = works.lately(("a", "b", "unknown"), after=9.0)
    assert (done.requests, done.rows, seconds) == (110, 200, 10.0)


def test_an_attempt_that_follows_begins_at_zero() -> None:
    works = Works[str]()
    works.note("a", 1, Work(requests=1000), 0.0)
    works.note("a", 2, Work(requests=5), 1.0)
    works.note("a", 2, Work(requests=9), 3.0)
    assert works.lately(("a",), after=0.5)[0].requests == 4


def test_a_server_that_fell_silent_did_nothing_lately() -> None:
    works = Works[str]()
    works.note("a", 1, Work(), 0.0)
    works.note("a", 1, Work(requests=5), 2.0)
    assert works.lately(("a",), after=50.0) == (Work(), 0.0)


def test_prometheus_reads_each_revision() -> None:
    name = "projects/demo/deployments/web/revisions/3"
    figures = RevisionFigures(revision=name, requests=8, errors=2, requests_per_second=0.8, p99_millis=12)
    page = metrics.text([figures])
    labels = 'project="demo",deployment="web",revision="3"'
    assert f"aios_revision_requests_per_second{{{labels}}} 0.8\n" in page
    assert f"aios_revision_failed_ratio{{{labels}}} 0.25\n" in page
    assert f'aios_revision_time_seconds{{{labels},quantile="0.99"}} 0.012\n' in page
    assert all(line.startswith(("# HELP ", "# TYPE ", "aios_revision_")) for line in page.splitlines())


def test_live_quality_is_on_the_page_of_whom_feedback_came_for_alone() -> None:
    name = "projects/demo/deployments/web/revisions/"
    known = RevisionFigures(revision=f"{name}3", feedback=60, live_accuracy=0.5)
    lines = metrics.text([known, RevisionFigures(revision=f"{name}4")]).splitlines()
    found = [line for line in lines if line.startswith(("aios_revision_live", "aios_revision_feedback"))]
    labels = 'project="demo",deployment="web",revision="3"'
    assert found == [
        f"aios_revision_live_accuracy_ratio{{{labels}}} 0.5",
        f"aios_revision_feedback{{{labels}}} 60",
    ]
