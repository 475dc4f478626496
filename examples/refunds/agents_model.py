"""A model of the OpenAI Agents SDK that says what it is told to say, so that the examples run offline. Yours is a real one."""

from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call


def scripted(*calls: tuple[str, dict[str, object]]) -> ScriptedModel:
    """Asks for these calls, one a turn, and ends."""
    steps = [
        ModelStep(output=[function_call(name, arguments, call_id=f"{name}-{at}")])
        for at, (name, arguments) in enumerate(calls)
    ]
    return ScriptedModel([*steps, ModelStep(output=[assistant_message("that is all")])])
