"""Prompts: what a model is told, by name, out of the release: rolling the release back changes it, and no agent restarts.

    prompts/triage.md                                  Answer as $role. The customer's plan is ${plan}.
    {"prompt": "triage", "variables": {"role": "a clerk", "plan": "gold"}, "messages": [...]}

The text becomes the first message, with the role `system`; the call's own messages follow. `$name` and `${name}` are variables and
`$$` is a dollar (`string.Template`, strict): every one must be given, none beyond. Where the release declares a task, `$task_goal` and
`$task_<field>` are what a channel said the session is for (`sessions/task.py`), and no call may give them. Values are put in once and never read as a
template. In a release with prompts, system text that a call brings itself is *unversioned*: it needs a permit that says so,
`@unversioned("why")`. Never evaluates anything. Next: `authorize.py`, docs/models.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import Template

import orjson
from sluicegate.processors.conform import Json
from sluicegate.processors.policy.cedar import Policy, names_action
from sluicegate.processors.releases.findings import Finding, nearest

FOLDER, SUFFIX = "prompts/", ".md"
MAX_PROMPT_BYTES = 32 * 1024
"""One prompt as written: with 64 kB of rendered text a dispatch stays far below a record's 1 MB."""
MAX_RENDERED_CHARS = 64 * 1024
SYSTEM_ROLES = ("system", "developer")
"""Roles of messages that tell a model what it is."""
READ, KIND = "prompt.read", "prompt"
"""The tool by which agents read prompts, and its executor kind: the ledger itself answers."""
TASK = "task_"
"""How variables begin that are the session's task."""
ANNOTATION = "unversioned"
"""On a permit: it permits free-form system text, too."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, ready to be rendered. `digest`: sha256 of its file."""

    name: str
    digest: bytes
    template: Template
    variables: frozenset[str]


@dataclass(frozen=True, slots=True)
class Told:
    """What a model call tells the model: the prompt it names, if any, and whether it brings system text of its own."""

    name: str = ""
    digest: bytes = b""
    unversioned: bool = False


def compile_prompts(files: Mapping[str, str], findings: list[Finding]) -> dict[str, Prompt]:
    """`prompts/*.md` of a release by name; what cannot be rendered becomes a finding."""
    prompts: dict[str, Prompt] = {}
    for path in sorted(p for p in files if p.startswith(FOLDER) and p.endswith(SUFFIX)):
        name, text = path.removeprefix(FOLDER).removesuffix(SUFFIX), files[path]
        template = Template(text)
        if len(text.encode()) > MAX_PROMPT_BYTES:
            said = f"prompt `{name}` has more than {MAX_PROMPT_BYTES} bytes"
        elif not template.is_valid():
            said = f"prompt `{name}` has a `$` that begins no variable, write `$$` for a dollar"
        elif not text.strip():
            said = f"prompt `{name}` is empty"
        else:
            variables = frozenset(template.get_identifiers())
            prompts[name] = Prompt(name, hashlib.sha256(text.encode()).digest(), template, variables)
            continue
        findings.append(Finding(path, 1, "prompt", "error", said))
    return prompts


def contract_for(prompts: Mapping[str, Prompt], policies: Iterable[Policy]) -> str:
    """The contract of `prompt.read` (`releases/prompt_read.py`), which a release has when a policy names it; else an empty text."""
    if not prompts or not any(names_action(policy, READ) for policy in policies):
        return ""
    properties = {"prompt": {"type": "string", "enum": sorted(prompts)}, "variables": {"type": "object"}}
    schema = {
        "type": "object",
        "properties": properties,
        "required": ["prompt"],
        "additionalProperties": False,
    }
    governance = {"class": "read_only", "executor": {"kind": KIND}}
    about = "A prompt of the session's release, rendered."
    return json.dumps(
        {"name": READ, "description": about, "inputSchema": schema, "x-sluicegate": governance},
        sort_keys=True,
    )


def told_of(args: dict[str, Json]) -> Told:
    """What a call tells that names no prompt."""
    return Told(unversioned=_brings_system_text(args.get("messages")))


def text_of(
    prompts: Mapping[str, Prompt], name: Json, variables: Json, task: Mapping[str, str] | None = None
) -> tuple[Prompt, str] | tuple[str, str]:
    """(prompt, its rendered text); or (reason, sentence). `task`: variables of the session's task; None: the release has none."""
    prompt = prompts.get(name) if isinstance(name, str) else None
    if prompt is None:
        return "unknown_prompt", f"the release has no prompt `{str(name)[:80]}`{nearest(str(name), prompts)}"
    wrong = _wrong(prompt, variables, task)
    if wrong or not isinstance(variables, dict):
        return "prompt_variables", wrong
    values = {**{key: str(value) for key, value in variables.items()}, **(task or {})}
    text = prompt.template.substitute(values)
    if len(text) > MAX_RENDERED_CHARS:
        said = f"prompt `{prompt.name}` renders to more than {MAX_RENDERED_CHARS} characters"
        return "prompt_variables", said
    return prompt, text


def render(
    prompts: Mapping[str, Prompt], args: dict[str, Json], task: Mapping[str, str] | None = None
) -> tuple[bytes, Told] | tuple[str, str]:
    """The arguments with the prompt they name rendered into `messages`, and what is told; or (reason, sentence)."""
    found = text_of(prompts, args.get("prompt"), args.get("variables") or {}, task)
    if isinstance(found[0], str):
        return found[0], found[1]
    prompt, text = found
    own = args.get("messages") or []
    if not isinstance(own, list):
        return "schema_violation", "`messages` is no list"
    rest = {key: value for key, value in args.items() if key not in ("prompt", "variables")}
    rest["messages"] = [{"role": "system", "content": text}, *own]
    return orjson.dumps(rest), Told(prompt.name, prompt.digest, _brings_system_text(own))


def _wrong(prompt: Prompt, variables: Json, task: Mapping[str, str] | None) -> str:
    """What speaks against these variables, or an empty text."""
    if not isinstance(variables, dict):
        return "`variables` is no object of texts"
    for key in sorted(prompt.variables - set(variables) - set(task or ())):
        if task is not None and key.startswith(TASK):
            return f"prompt `{prompt.name}` needs `{key}`, and no channel said it of this session"
        return f"prompt `{prompt.name}` needs the variable `{key}`"
    for key, value in sorted(variables.items()):
        if task is not None and key.startswith(TASK):
            # INVARIANT: no call says what its task is (tests/unit/test_task.py).
            return f"`{key[:80]}` is what a channel said of the session, leave it out"
        if key not in prompt.variables:
            return f"prompt `{prompt.name}` has no variable `{key[:80]}`{nearest(key, prompt.variables)}"
        if not isinstance(value, str | int) or isinstance(value, bool):
            return f"the variable `{key}` is no text and no whole number"
    return ""


def _brings_system_text(messages: Json) -> bool:
    """Whether any message is of a role that tells the model what it is."""
    if not isinstance(messages, list):
        return False
    return any(isinstance(m, dict) and m.get("role") in SYSTEM_ROLES for m in messages)


def context_of(told: Told) -> dict[str, Json]:
    """`context.prompt` of a request to Cedar."""
    return {"name": told.name, "digest": told.digest.hex(), "unversioned": told.unversioned}
