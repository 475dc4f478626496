"""The verifier's own test: every kind of tampering is done to a sound ledger, and has to be found and rightly named.

    scenes.py    sound ledgers in memory, and what verifies them: the code of `ledger verify` without Kafka
    kinds/       the kinds of tampering; most by a forger who makes the chain fit again (`tests/forging.py`)
    __main__.py  `python -m tests.mutations`: the table, and docs/mutations.md

A kind that is not found is a row of the table that says so. Next: `tests/unit/test_mutations.py`.
"""
