"""What a candidate release would decide otherwise, call by call, on calls that were kept: `python -m examples.04_release.compare`.

Without Kafka, for a pull request. On a ledger it is `sluicegate replay --mode diff`. Exit code 1 when a call is decided otherwise.
"""

import json
import sys
from pathlib import Path

from sluicegate.streams.local import Gate

HERE = Path(__file__).parent


def main() -> int:
    """Compare them; how many calls differ."""
    current, candidate = Gate.local(HERE / "current"), Gate.local(HERE / "candidate")
    calls = [json.loads(line) for line in (HERE / "fixtures.jsonl").read_text("utf-8").splitlines()]
    differ = 0
    for call in calls:
        asked = call["agent"], call["tool"], call["arguments"]
        was, now = current.check(*asked), candidate.check(*asked)
        if was.status != now.status:
            differ += 1
            print(f"{call['tool']} {json.dumps(call['arguments'])}: {was.status} -> {now.status}: {now}")
    print(f"{len(calls)} calls, {differ} decided otherwise")
    return differ


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
