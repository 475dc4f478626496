"""A chat model that says what it is told to say, so that the examples run offline. Yours is a real one."""

from collections.abc import Callable, Sequence

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool


class Scripted(BaseChatModel):
    """Asks for the calls of its script, one a turn, then repeats what the last tool said."""

    calls: list[tuple[str, dict[str, object]]]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self, tools: Sequence[dict[str, object] | type | Callable[..., object] | BaseTool], **kwargs: object
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """It knows its calls already."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        done = [m for m in messages if isinstance(m, ToolMessage)]
        if len(done) < len(self.calls):
            name, arguments = self.calls[len(done)]
            message = AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"call-{len(done)}"}])
        else:
            message = AIMessage(str(done[-1].content))
        return ChatResult(generations=[ChatGeneration(message=message)])
