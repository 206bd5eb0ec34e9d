"""The doctor names what is missing, with the fix."""

from pathlib import Path

from aios.stack import doctor
from aios.stack.doctor import Finding
from aios.stack.layout import Layout


def find(findings: list[Finding], what: str) -> Finding:
    return next(finding for finding in findings if finding.what == what)


def test_this_machine_can_run_the_stack(tmp_path: Path) -> None:
    findings = doctor.examine(Layout(tmp_path), {})
    assert [finding.what for finding in findings if not finding.good and finding.fatal] == []


def test_a_home_that_cannot_be_written_is_named_with_a_fix(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    finding = find(doctor.examine(Layout(file), {}), "home")
    assert not finding.good
    assert "AIOS_HOME" in finding.fix


def test_a_home_too_deep_for_sockets_is_refused(tmp_path: Path) -> None:
    assert not find(doctor.examine(Layout(tmp_path / ("d" * 100)), {}), "path").good


def test_a_server_that_is_elsewhere_needs_no_program_here_but_credentials(tmp_path: Path) -> None:
    given = {"AIOS_NATS_URL": "nats://elsewhere:4222", "AIOS_S3_ENDPOINT": "http://elsewhere:9000"}
    findings = doctor.examine(Layout(tmp_path), given)
    assert not {"weed", "nats-server"} & {finding.what for finding in findings}
    assert "AIOS_S3_CREDENTIALS_FILE" in find(findings, "S3 credentials").fix
    assert "AIOS_NATS_CREDENTIALS_FILE" in find(findings, "NATS credentials").fix
