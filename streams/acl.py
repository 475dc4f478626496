"""What each role may do in Kafka, derived from the table of topics: the same rule as the pipeline's, told to the broker.

Who writes and reads a topic stands in `schemas/topics.py`; groups and transactional ids are those the roles use.
`Read` and `Write` include `Describe`. An idempotent producer needs no cluster right (Kafka 3.0 and later).
An ACL cannot tell two agents apart on one topic: the key in `replies` and the signature on `intents` do that.
Pure: makes the list, never calls Kafka. Next: `commands/topics.py` (prints it).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.topics import INPUTS, TOPICS, full_name, space_of

TOPIC, GROUP, TRANSACTIONAL_ID = "TOPIC", "GROUP", "TRANSACTIONAL_ID"
LITERAL, PREFIXED = "LITERAL", "PREFIXED"
READ, WRITE, DESCRIBE, CREATE = "READ", "WRITE", "DESCRIBE", "CREATE"

_FLAGS = {TOPIC: "--topic", GROUP: "--group", TRANSACTIONAL_ID: "--transactional-id"}

_OWN: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "pipeline": (
        (TRANSACTIONAL_ID, "sluicegate.{env}.ledger.", PREFIXED, WRITE),
        (GROUP, "sluicegate.{env}.ledger", LITERAL, READ),
    ),
    "executor": (
        (TRANSACTIONAL_ID, "sluicegate.{env}.claims.", PREFIXED, WRITE),
        (GROUP, "sluicegate.{env}.executor", LITERAL, READ),
    ),
    "projector": ((GROUP, "{env}.projector", PREFIXED, READ),),  # the second one rebuilds
    # Faust: its group and the topic by which it elects a leader. The ledger's group and inputs: to measure the lag.
    "monitor": (
        (GROUP, "sluicegate.{env}.monitor", LITERAL, READ),
        (GROUP, "sluicegate.{env}.notify", LITERAL, READ),
        (GROUP, "sluicegate.{env}.alarms", LITERAL, READ),
        # The sentinel raises alarms: the transactional id that appends to control.
        (TRANSACTIONAL_ID, "sluicegate.{env}.control", LITERAL, WRITE),
        (GROUP, "sluicegate.{env}.ledger", LITERAL, DESCRIBE),
        *((TOPIC, "sluicegate.{env}.monitor-", PREFIXED, right) for right in (CREATE, READ, WRITE)),
        *((TOPIC, f"{{space}}.{name}", LITERAL, DESCRIBE) for name in INPUTS),
    ),
    # `sluicegate topics create`, the one transactional id that appends to control, and the ledger's lag for `status`.
    "operator": (
        (GROUP, "sluicegate.{env}.ledger", LITERAL, DESCRIBE),
        (TRANSACTIONAL_ID, "sluicegate.{env}.control", LITERAL, WRITE),
        (TOPIC, "{env}.", PREFIXED, CREATE),
        (TOPIC, "{env}.", PREFIXED, DESCRIBE),
    ),
}
"""What a role needs beside topics' records: (resource, name, pattern, operation)."""

ROLES: tuple[str, ...] = tuple(sorted({r for t in TOPICS for r in (*t.writers, *t.readers)} | set(_OWN)))
"""Every role the table of topics names."""


@dataclass(frozen=True, slots=True, order=True)
class Acl:
    """One permission. There are no denials: what is not listed is refused (`allow.everyone.if.no.acl.found=false`)."""

    role: str
    principal: str
    resource: str
    name: str
    pattern: str
    operation: str

    def line(self) -> str:
        """Its `kafka-acls.sh` command."""
        return " ".join(
            (
                'kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --command-config "$ADMIN_PROPERTIES" --add',
                f"--allow-principal {shlex.quote(self.principal)} --operation {self.operation.title()}",
                f"{_FLAGS[self.resource]} {shlex.quote(self.name)} --resource-pattern-type {self.pattern.lower()}",
            )
        )


def default_principal(env: str, role: str) -> str:
    """`User:dev-pipeline`: environments share no credential."""
    return f"User:{env}-{role}"


def parse_principals(rows: list[str]) -> dict[str, tuple[str, ...]]:
    """`role=User:name` rows, a role as often as it has principals. Raises `Terminal`."""
    found: dict[str, tuple[str, ...]] = {}
    for row in rows:
        role, _, principal = row.partition("=")
        kind, _, name = principal.partition(":")
        # `User:*` would open the topic to everybody, whatever the role.
        if role not in ROLES or not kind or not name or name == "*":
            raise Terminal(
                f"`{row}` names no principal, write role=User:name with one of the roles {', '.join(ROLES)}"
            )
        found[role] = (*found.get(role, ()), principal)
    return found


def plan(env: str, principals: Mapping[str, tuple[str, ...]] | None = None, generation: int = 0) -> list[Acl]:
    """Every permission of an environment, on the topics of one generation. `principals` replaces the default principal of the roles it names."""
    rows: list[Acl] = []
    for role in ROLES:
        for principal in (principals or {}).get(role, (default_principal(env, role),)):
            for topic in TOPICS:
                name = full_name(space_of(env, generation), topic.name)
                rights = ((WRITE, topic.writers), (READ, topic.readers))
                rows += [
                    Acl(role, principal, TOPIC, name, LITERAL, right) for right, who in rights if role in who
                ]
            rows += [
                Acl(
                    role,
                    principal,
                    resource,
                    name.format(env=env, space=space_of(env, generation)),
                    pattern,
                    right,
                )
                for resource, name, pattern, right in _OWN.get(role, ())
            ]
    return rows
