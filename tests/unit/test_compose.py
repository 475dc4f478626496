"""The compose file and the Dockerfile, as far as they can be checked without Docker: structure, commands, no secret.

Nothing here proves that the containers run: `tests/integration/test_containers.py` does, where Docker is.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
import yaml
from sluicegate.streams import cli, stack
from sluicegate.streams.roles import OPTIONAL, ROLES
from sluicegate.streams.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def resolve(words: list[str]) -> click.Context:
    """Parse a command line as `sluicegate` would, without running it. Raises `click.UsageError`."""
    command: Any = typer.main.get_command(cli.app)
    context: Any = command.make_context("sluicegate", list(words))
    while hasattr(command, "commands"):
        args = (
            [*context._protected_args, *context.args]
            if hasattr(context, "_protected_args")
            else list(context.args)
        )
        if not args:
            raise click.UsageError("no command")
        name, command, args = command.resolve_command(context, args)
        context = command.make_context(name, args, parent=context)
    return context  # type: ignore[no-any-return]


def test_services_are_the_roles_what_they_need_and_init() -> None:
    assert set(SERVICES) == {"kafka", "clickhouse", "grafana", "init", *OPTIONAL, *stack.DEFAULT_ROLES}
    assert set(OURS) == {"init", *OPTIONAL, *stack.DEFAULT_ROLES}
    assert all(SERVICES[role]["profiles"] for role in OPTIONAL)
    assert set(COMPOSE["volumes"]) == {"kafka", "clickhouse", "state"}
    for service in SERVICES.values():
        assert {"healthcheck", "environment", "volumes"} <= set(service)
        for mount in service["volumes"]:
            source = mount.partition(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).is_dir()


def test_each_role_runs_its_role_and_init_makes_topics() -> None:
    assert SERVICES["init"]["command"] == ["topics", "create"]
    assert SERVICES["init"]["restart"] == "no"
    for role in (*OPTIONAL, *stack.DEFAULT_ROLES):
        assert role in (*ROLES, *OPTIONAL)
        assert SERVICES[role]["command"] == ["worker", "--role", role]
        assert SERVICES[role]["depends_on"]["init"] == {"condition": "service_completed_successfully"}
    assert "clickhouse" in SERVICES["projector"]["depends_on"]


def comment_commands() -> list[list[str]]:
    """What the comments tell people to run in a container."""
    return [m.group(1).split() for m in re.finditer(r"docker compose run --rm \w+ (.+)", TEXT)]


@pytest.mark.parametrize(
    "words", [*(SERVICES[name]["command"] for name in OURS), *comment_commands()], ids=" ".join
)
def test_every_command_exists(words: list[str]) -> None:
    if words[-1].startswith("/examples"):  # a folder of the container
        assert (ROOT / words[-1].lstrip("/")).is_dir()
        words = [*words[:-1], str(ROOT / words[-1].lstrip("/"))]
    assert resolve(words).command.name == words[1 if words[0] in ("topics",) else 0]


@pytest.mark.parametrize(
    "words", [["workers"], ["worker", "--rolle", "ledger"], ["topics", "make"], ["topics"]]
)
def test_a_command_that_does_not_exist_is_found(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"(?s).*") as caught:
        resolve(words)
    # By name: typer brings a click of its own in some versions.
    assert caught.type.__name__ in ("UsageError", "NoSuchOption", "NoArgsIsHelpError", "Exit")


def substituted(value: str, environ: dict[str, str]) -> str:
    def one(match: re.Match[str]) -> str:
        name, _, rest = match.group(1).partition(":")
        if name in environ:
            return environ[name]
        assert not rest.startswith("?"), f"{name} has to be set"
        return rest.removeprefix("-")

    return re.sub(r"\$\{([^}]+)\}", one, value)


@pytest.mark.parametrize("name", OURS)
def test_settings_accept_what_the_services_are_given(name: str) -> None:
    given = {
        k: substituted(str(v), {"CLICKHOUSE_PASSWORD": "a-b_c9"})
        for k, v in SERVICES[name]["environment"].items()
    }
    settings = Settings.from_env(given)
    assert (settings.env, settings.kafka, settings.partitions) == ("dev", "kafka:9092", 12)
    assert settings.clickhouse == "http://sluicegate:a-b_c9@clickhouse:8123/dev"


def test_no_password_stands_in_the_files() -> None:
    for service in SERVICES.values():
        for variable, value in service["environment"].items():
            if "PASSWORD" in variable:
                assert re.fullmatch(r"\$\{\w+:\?.+\}", str(value)), variable
    assert not re.search(r"://\w+:(?!\$\{)[^@/\s]+@", TEXT + DOCKERFILE)
    with pytest.raises(AssertionError, match="CLICKHOUSE_PASSWORD"):
        substituted(SERVICES["ledger"]["environment"]["SLUICEGATE_CLICKHOUSE"], {})


def test_ports_are_for_this_machine_only_and_kafka_makes_no_topic_by_itself() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    kafka = SERVICES["kafka"]["environment"]
    assert kafka["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert re.fullmatch(r"apache/kafka:4\.\d+\.\d+", SERVICES["kafka"]["image"])
    advertised = dict(part.split("://") for part in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert advertised["INSIDE"] == SERVICES["ledger"]["environment"]["SLUICEGATE_KAFKA"]
    listeners = {part.partition("://")[0] for part in kafka["KAFKA_LISTENERS"].split(",")}
    assert listeners == {
        part.partition(":")[0] for part in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    }


def test_a_role_has_longer_to_stop_than_it_takes() -> None:
    from sluicegate.streams.app import STOP_LIMIT_S

    for role in stack.DEFAULT_ROLES:
        assert int(SERVICES[role]["stop_grace_period"].removesuffix("s")) > STOP_LIMIT_S


def test_the_image_holds_every_package_and_serves_health_where_compose_asks() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    copied = set(re.findall(r"^COPY (\w+) \./\1$", DOCKERFILE, re.MULTILINE))
    assert copied == {p.split(".")[1] for p in packages if "." in p}
    port = re.search(r"SLUICEGATE_WEB_PORT=(\d+)", DOCKERFILE)
    assert port is not None
    for role in stack.DEFAULT_ROLES:
        assert f"127.0.0.1:{port.group(1)}/health" in " ".join(SERVICES[role]["healthcheck"]["test"])
    assert "\nUSER sluicegate\n" in DOCKERFILE
    assert SERVICES["ledger"]["volumes"][0].endswith(
        ":" + re.search(r"SLUICEGATE_HOME=(\S+)", DOCKERFILE).group(1)
    )  # type: ignore[union-attr]
