"""Example 05 as far as it can be checked without Docker and a cluster: commands, users, networks, no secret; the chart rendered, as helm
renders it, and each document by the schemas of Kubernetes.

Nothing here proves that the containers run, or that a cluster takes the chart.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from sluicegate.schemas.topics import TOPICS
from sluicegate.streams import acl
from sluicegate.streams.agent_env import look

from tests import chart
from tests.unit.test_compose import resolve

FOLDER = Path(__file__).parents[2] / "examples" / "05_production"
TEXT = (FOLDER / "compose.yaml").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
CHART = FOLDER / "chart"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text("utf-8"))
HELMS = Path(__file__).parents[1] / "golden" / "chart.yaml"
KUBERNETES = json.loads((Path(__file__).parents[1] / "vectors" / "kubernetes.json").read_text("utf-8"))
"""Version -> definitions of its API (tests/vectors/NOTICE.md)."""
OURS = {name: s for name, s in SERVICES.items() if "build" in s}
AGENTS = {name: s for name, s in SERVICES.items() if name.startswith("agent-")}


def test_every_command_of_ours_is_one() -> None:
    for service in OURS.values():
        resolve(service["command"])


def test_kafka_takes_nobody_in_the_clear_or_without_a_right() -> None:
    env = SERVICES["kafka"]["environment"]
    assert set(re.findall(r":(\w+)", env["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"])) == {"SASL_SSL"}
    assert env["KAFKA_AUTHORIZER_CLASS_NAME"].endswith("StandardAuthorizer")
    assert env["KAFKA_ALLOW_EVERYONE_IF_NO_ACL_FOUND"] == "false" and "ports" not in SERVICES["kafka"]


def test_each_role_has_a_user_of_its_own_that_the_list_of_rights_knows() -> None:
    users = {
        name: s["environment"]["SLUICEGATE_KAFKA_USERNAME"] for name, s in OURS.items() if name not in AGENTS
    }
    assert len(set(users.values())) == len(users)
    roles = {u.removeprefix("prod-") for u in users.values()}
    assert roles <= set(acl.ROLES)
    script = (FOLDER / "prepare.sh").read_text("utf-8")
    made = re.search(r'ROLES="(.*)"', script)
    assert made and set(made[1].split()) == roles
    assert {r for t in TOPICS for r in t.writers} & roles >= {"pipeline", "executor", "gateway"}


def test_agents_of_two_tenants_reach_the_gateway_only_and_hold_a_key_only() -> None:
    assert len(AGENTS) == 2 and COMPOSE["networks"]["agents"] == {"internal": True}
    assert {n for n, s in SERVICES.items() if "agents" in s.get("networks", ())} == {"gateway", *AGENTS}
    for service in AGENTS.values():
        assert service["networks"] == ["agents"] and service["volumes"] == []
        assert look({k: v or "x" for k, v in service["environment"].items()}) == []
    # The gateway's home is not the roles': it must not hold their keys.
    assert not any(v.startswith("state:") for v in SERVICES["gateway"]["volumes"])
    assert [n for n, s in SERVICES.items() if "outside" in s.get("networks", ())] == ["executor"]


def test_no_secret_stands_here() -> None:
    for value in re.findall(r"PASSWORD\w*: \"?([^\",}]+)", TEXT):
        assert value.startswith("${") and ":?" in value, value
    assert (FOLDER / ".gitignore").read_text("utf-8").split() == ["secrets/"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("partitions",), 0),
        (("environment",), "Prod!"),
        (("kafka", "mechanism"), "NONE"),
        (("roles", "ledger", "replicas"), "3"),
        (("tenants",), []),
        (("unknown",), 1),
    ],
)
def test_the_schema_refuses_what_is_wrong(path: tuple[str, ...], value: object) -> None:
    validator = jsonschema_rs.validator_for(SCHEMA)
    assert validator.is_valid(VALUES)
    wrong = copy.deepcopy(VALUES)
    place = wrong
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert not validator.is_valid(wrong)


def rendered() -> list[dict[str, Any]]:
    return chart.render(CHART, VALUES, "sg", "sluicegate")


def of(documents: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(d["kind"], d["metadata"].get("namespace", ""), d["metadata"]["name"]): d for d in documents}


def test_the_chart_renders() -> None:
    found = of(rendered())
    deployments = {name: d for (kind, _, name), d in found.items() if kind == "Deployment"}
    assert set(deployments) == {"sg-executor", "sg-gateway", "sg-ledger", "sg-monitor", "sg-projector"}
    for name, deployment in deployments.items():
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        resolve(container["args"])
        mounted = {m["name"] for m in container["volumeMounts"]}
        assert mounted == {v["name"] for v in pod["volumes"]}
        assert pod["automountServiceAccountToken"] is False and pod["securityContext"]["runAsNonRoot"]
        assert (
            deployment["spec"]["selector"]["matchLabels"]
            == deployment["spec"]["template"]["metadata"]["labels"]
        )
        env = {e["name"]: e.get("value") for e in container["env"]}
        assert env["SLUICEGATE_KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
        assert ("SLUICEGATE_EGRESS" in env) is (name == "sg-executor")
        assert ("state" in mounted) is (name != "sg-gateway")
    policies = {(ns, name): d["spec"] for (kind, ns, name), d in found.items() if kind == "NetworkPolicy"}
    for tenant in VALUES["tenants"]:
        egress = policies[(tenant, "sg-agents")]["egress"]
        assert [p["port"] for rule in egress for p in rule["ports"]] == [8484, 53, 53]
    assert len(policies[("", "sg-gateway")]["ingress"]) == 2 and policies[("", "sg-roles")]["ingress"] == []


def refuses(document: dict[str, Any], version: str) -> bool:
    """Whether the API server of this version would not take it, by its own schemas with no field more than they name."""
    schema = {"$ref": f"#/$defs/{document['kind']}", "$defs": KUBERNETES[version]}
    return not jsonschema_rs.validator_for(schema).is_valid(document)


@pytest.mark.parametrize("version", KUBERNETES)
def test_a_cluster_would_take_each_document(version: str) -> None:
    documents = rendered()
    assert [d["metadata"]["name"] for d in documents if refuses(d, version)] == []
    for wrong in documents:  # a field that nobody knows, and one of another type: the check sees both
        wrong["spec"]["replica"] = 1
        assert refuses(wrong, version)
        del wrong["spec"]["replica"]
        wrong["metadata"]["name"] = 7
        assert refuses(wrong, version)


def test_helm_rendered_the_same() -> None:
    """What `helm template` made of the chart: after a change to it run `python -m tests.unit.test_examples_production` where helm is."""
    helms = [d for d in yaml.safe_load_all(HELMS.read_text("utf-8")) if d]
    assert of(helms) == of(rendered())


@pytest.mark.skipif(
    shutil.which("helm") is None, reason="no helm here: the test above holds the chart against what it made"
)
def test_helm_renders_the_same_here() -> None:
    subprocess.run(["helm", "lint", "--strict", str(CHART)], capture_output=True, check=True)
    assert of([d for d in yaml.safe_load_all(by_helm()) if d]) == of(rendered())


def by_helm() -> str:
    """The chart as helm in the path renders it."""
    command = ["helm", "template", "sg", str(CHART), "--namespace", "sluicegate"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    HELMS.write_text(by_helm(), "utf-8")
