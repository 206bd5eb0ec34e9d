"""`aios login`, `aios project`, `aios token`."""

import os
import re
import sys
from datetime import timedelta

import click

from aios.cli import output
from aios.cli.output import Columns, Noun, age, common, connected, leaf

PROJECT: Columns = {
    "NAME": lambda p: leaf(p.name),
    "DISPLAY NAME": lambda p: p.display_name,
    "AGE": lambda p: age(p.create_time),
}
MEMBER: Columns = {
    "NAME": lambda m: leaf(m.name),
    "ROLE": lambda m: role(m.role),
    "AGE": lambda m: age(m.create_time),
}
TOKEN: Columns = {
    "ID": lambda t: leaf(t.name),
    "MEMBER": lambda t: leaf(t.member),
    "ROLE": lambda t: role(t.role),
    "FOR": lambda t: t.display_name,
    "EXPIRES": lambda t: t.expire_time.ToDatetime().strftime("%Y-%m-%d") if t.expire_time.seconds else "",
    "REVOKED": lambda t: age(t.revoke_time) and f"{age(t.revoke_time)} ago",
    "AGE": lambda t: age(t.create_time),
}
TTL = re.compile(r"(\d+)([smhd])")


@click.command()
@click.argument("to", metavar="[ADDRESS]", default="")
@click.option("--token", default="", help="The token; asked for, or read from stdin, where not given.")
@common
def login(to: str, token: str) -> None:
    """Remember an address and a token for the commands that follow.

    On the machine of the stack no login is needed.
    """
    from aios.client import Client, credentials
    from aios.config import Settings

    found = credentials.resolve(to or output.shared().address, token, output.shared().project)
    local = found.address == credentials.local_address(Settings.load().home)
    if not token and not local:
        token = click.prompt("Token", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    project = output.shared().project or credentials.project_in(token) or found.project
    with Client(found.address, token, project) as client:
        caller = client.projects.caller()
    saved = credentials.path(os.environ)
    credentials.save(saved, found.address, token, project)
    rows = [
        ["address", found.address],
        ["caller", caller.subject],
        ["role", "operator" if caller.operator else role(caller.role)],
        ["project", project],
    ]
    output.emit_data({str(key): value for key, value in rows}, rows)
    output.notice(f"Saved in {saved}.")


@click.group(cls=Noun)
def project() -> None:
    """Projects and their members."""


@project.command("list")
@common
def list_projects() -> None:
    """The projects that you belong to."""
    with connected() as client:
        output.emit_list(client.projects.list(), PROJECT, none="You belong to no project.")


@project.command("create")
@click.argument("name")
@click.option("--display-name", default="", help="For people.")
@common
def create_project(name: str, display_name: str) -> None:
    """Make a project. Operators only."""
    with connected() as client:
        output.emit(client.projects.create(name, display_name), PROJECT)


@project.command("get")
@click.argument("name", default="")
@common
def get_project(name: str) -> None:
    """One project; yours where none is named."""
    with connected() as client:
        output.emit(client.projects.get(name), PROJECT)


@project.command("members")
@click.argument("name", default="")
@common
def members(name: str) -> None:
    """The members of a project."""
    with connected() as client:
        client.projects.get(name)  # no project has no members: a mistyped one is an error
        output.emit_list(
            client.projects.members(name), MEMBER, none="No members: `aios project add-member` adds one."
        )


@project.command("add-member")
@click.argument("member")
@click.option(
    "--role",
    "as_role",
    type=click.Choice(["viewer", "annotator", "reviewer", "editor", "admin"]),
    default="editor",
    show_default=True,
    help="What the member may do.",
)
@common
def add_member(member: str, as_role: str) -> None:
    """Add a member to the project, or change the role of one."""
    with connected() as client:
        output.emit(client.projects.set_member(member, as_role), MEMBER)


@project.command("remove-member")
@click.argument("member")
@common
def remove_member(member: str) -> None:
    """Remove a member and revoke their tokens in the project."""
    with connected() as client:
        client.projects.remove_member(member)
    output.notice(f"Removed {member}; the tokens of {member} are refused within 5 seconds.")


@click.group(cls=Noun)
def token() -> None:
    """Tokens: for people, programs and machines."""


@token.command("list")
@common
def list_tokens() -> None:
    """The project's tokens, newest first."""
    with connected() as client:
        output.emit_list(client.tokens.list(), TOKEN, none="No tokens yet: `aios token create` makes one.")


@token.command("create")
@click.option("--member", default="", help="Who it speaks for; you where not given.")
@click.option(
    "--role",
    "as_role",
    type=click.Choice(["viewer", "annotator", "reviewer", "editor", "admin"]),
    help="Yours where not given.",
)
@click.option("--ttl", default="30d", show_default=True, help="How long it lives: 12h, 30d.")
@click.option("--for", "purpose", default="", help="Where it is used, for people.")
@common
def create_token(member: str, as_role: str | None, ttl: str, purpose: str) -> None:
    """Issue a token. It is shown once, here."""
    lifetime = duration(ttl)
    with connected() as client:
        made = client.tokens.create(member=member, role=as_role or "", ttl=lifetime, display_name=purpose)
    if output.shared().output == "table":
        click.echo(made.secret)
        output.notice(f"Shown once. Revoke it with `aios token revoke {leaf(made.token.name)}`.")
    else:
        output.emit(made, {})


@token.command("revoke")
@click.argument("token_id")
@common
def revoke_token(token_id: str) -> None:
    """Revoke a token: refused at every door within 5 seconds."""
    with connected() as client:
        output.emit(client.tokens.revoke(token_id), TOKEN)


def role(value: int) -> str:
    """The word for a role."""
    from aios.identity.v1 import identity_pb2

    return identity_pb2.Role.Name(identity_pb2.Role.ValueType(value)).removeprefix("ROLE_").lower()


def duration(text: str) -> timedelta:
    """`30d`, `12h`, `90s`."""
    match = TTL.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"must look like 12h or 30d, not {text!r}", param_hint="--ttl")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]
    return timedelta(**{unit: int(match[1])})
