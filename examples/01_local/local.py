"""What a policy says, in ten lines: `python -m examples.01_local.local` needs nothing that runs."""

from pathlib import Path

from sluicegate.streams.local import Gate

gate = Gate.local(Path(__file__).parents[1] / "refunds")
for amount in (12, 500, 5000):
    print(amount, gate.check("support-7", "refund", {"order": "7", "amount": amount}))
