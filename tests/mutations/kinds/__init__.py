"""All kinds of tampering, by what they touch. Importing this registers them (`registry.KINDS`)."""

from tests.mutations.kinds import bytes_, calls, control, inputs, people, seams, trees

__all__ = ["bytes_", "calls", "control", "inputs", "people", "seams", "trees"]
