"""A model of pydantic-ai that says what it is told to say, so that the examples run offline. Yours is a real one."""

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel


def scripted(*calls: tuple[str, dict[str, object]]) -> FunctionModel:
    """Asks for these calls, one a turn, then repeats what the last tool said."""

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        done = [part for m in messages for part in m.parts if isinstance(part, ToolReturnPart)]
        if len(done) < len(calls):
            name, arguments = calls[len(done)]
            return ModelResponse([ToolCallPart(name, arguments, tool_call_id=f"call-{len(done)}")])
        return ModelResponse([TextPart(str(done[-1].content))])

    return FunctionModel(answer)
