"""The other side of `audit`: `AuditLog.log` of agentmesh-platform, in its own virtual environment. Needs nothing of Sluicegate.

python bench/audit_peer.py COUNT      prints entries a second
"""

from __future__ import annotations

import sys
import time


def main() -> None:
    """Log so many entries of the size of an outcome, and say how fast."""
    from agentmesh.governance import AuditLog  # type: ignore[import-not-found]

    count = int(sys.argv[1])
    log = AuditLog()
    started = time.perf_counter()
    for n in range(count):
        log.log(
            event_type=("route", "authorize", "validate", "plan")[n & 3], agent_did="did:mesh:agent-1", action="banking.get_balance",
            resource="account", data={"intent": f"i-{n // 4}", "arguments": {"account": "main"}}, outcome="success",
            policy_decision="permit", trace_id=f"t-{n // 4}",
        )  # fmt: skip
    print(count / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
