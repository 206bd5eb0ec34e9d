"""Path templates: what they match, and that building and reading a path are inverse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.templates import PathTemplate, split_verb

TEMPLATES = [
    "/v1/projects",
    "/v1/{id}",
    "/v1/{name=projects/*}",
    "/v1/{name=projects/*/jobs/*}",
    "/v1/{name=projects/*/jobs/*}:cancel",
    "/v1/{member.name=projects/*/members/*}",
    "/v1/{parent=projects/*}/jobs:watch",
    "/v1/{parent=projects/*}/files/{path=**}",
    "/v1/{a}/and/{b=x/*}:go",
]
segment = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
plain_segment = segment.filter(lambda text: "/" not in text)


@st.composite
def filled(draw: st.DrawFn) -> tuple[PathTemplate, dict[str, str]]:
    template = PathTemplate.parse(draw(st.sampled_from(TEMPLATES)))
    values: dict[str, list[str]] = {}
    for part in template.segments:
        if part.field is None:
            continue
        alone = len([s for s in template.segments if s.field == part.field]) == 1
        if part.is_literal:
            text = part.text
        elif part.text == "**":
            text = "/".join(draw(st.lists(plain_segment, min_size=1, max_size=3)))
        else:
            text = draw(segment if alone else plain_segment)
        values.setdefault(part.field, []).append(text)
    return template, {field: "/".join(parts) for field, parts in values.items()}


@given(filled())
def test_a_path_built_from_values_is_read_back_as_them(case: tuple[PathTemplate, dict[str, str]]) -> None:
    template, values = case
    path = template.expand(values)
    assert template.match(path) == values
    assert path.isascii()


@given(filled(), st.sampled_from(TEMPLATES))
def test_a_path_matches_templates_of_its_own_verb_only(
    case: tuple[PathTemplate, dict[str, str]], other: str
) -> None:
    template, values = case
    path = template.expand(values)
    if PathTemplate.parse(other).match(path) is not None:
        assert PathTemplate.parse(other).verb == template.verb


@given(st.text(max_size=60))
def test_no_text_makes_matching_fail(path: str) -> None:
    for text in TEMPLATES:
        PathTemplate.parse(text).match(path)


@pytest.mark.parametrize(
    ("template", "path", "values"),
    [
        ("/v1/{name=projects/*/jobs/*}", "/v1/projects/p/jobs/j", {"name": "projects/p/jobs/j"}),
        ("/v1/{name=projects/*/jobs/*}", "/v1/projects/p/jobs/j:cancel", None),
        (
            "/v1/{name=projects/*/jobs/*}:cancel",
            "/v1/projects/p/jobs/j:cancel",
            {"name": "projects/p/jobs/j"},
        ),
        ("/v1/{name=projects/*/jobs/*}:cancel", "/v1/projects/p/jobs/j:", None),
        ("/v1/{name=projects/*/jobs/*}", "/v1/projects/p/jobs/", None),
        ("/v1/{name=projects/*/jobs/*}", "/v1/projects//jobs/j", None),
        ("/v1/{name=projects/*/jobs/*}", "/v1/projects/p/jobs/j/", None),
        ("/v1/{name=projects/*/jobs/*}", "/v1/projects/p/jobs/a%3Ab", {"name": "projects/p/jobs/a:b"}),
        (
            "/v1/{member.name=projects/*/members/*}",
            "/v1/projects/p/members/m",
            {"member.name": "projects/p/members/m"},
        ),
        # An encoded slash in a name stays encoded: it cannot pretend to be structure.
        ("/v1/{name=projects/*}", "/v1/projects/p%2Fjobs%2fj", {"name": "projects/p%2Fjobs%2fj"}),
        ("/v1/{id}", "/v1/a%2Fb", {"id": "a/b"}),
        ("/v1/{id}", "/v1/%ff", None),
        ("/v1/{path=**}", "/v1/a/b/c", {"path": "a/b/c"}),
    ],
)
def test_matching(template: str, path: str, values: dict[str, str] | None) -> None:
    assert PathTemplate.parse(template).match(path) == values


@pytest.mark.parametrize(
    "text",
    [
        "v1/x",
        "/",
        "/v1//x",
        "/v1/x/",
        "/v1/{a",
        "/v1/a}b",
        "/v1/{a}/{a}",
        "/v1/**/x",
        "/v1/a*",
        "/v1/{a=b//c}",
        "/v1/{a}b",
    ],
)
def test_a_template_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="/"):
        PathTemplate.parse(text)


def test_only_the_last_segment_has_a_verb() -> None:
    assert split_verb("/v1/a:b/c") == ("/v1/a:b/c", "")
    assert split_verb("/v1/a/c:d:e") == ("/v1/a/c:d", "e")
