"""How a plan of taking back is printed: first what cannot be, then the tree, each call under what it followed from.

Next: `rollback.py`.
"""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree
from sluicegate.processors.replay.lineage import DATA, HANDED_ON, MEMORY, SAW, Key, Link
from sluicegate.streams.commands.output import printable
from sluicegate.streams.undo.rollback import CANNOT, DONE, LEFT, MAX_UNSURE, NOTHING, TODO, Plan, Step

_COLOUR = {NOTHING: "dim", CANNOT: "red", TODO: "yellow", DONE: "green", LEFT: "red"}
_CLOSEST = (DATA, MEMORY, HANDED_ON, SAW)
MAX_LINE_CHARS = 20_000


def print_first(out: Console, plan: Plan) -> None:
    """What cannot be taken back, and what nobody can tell."""
    if plan.cannot:
        _say(out, "[bold red]cannot be taken back[/bold red]")
        for step in plan.cannot:
            _say(out, f"  {_name(step)}: {_e(step.why)}")
    unsure = plan.cascade.unsure
    if unsure:
        _say(out, f"{len(unsure)} later call(s) saw a result and were not traced; take them in with --seen")
        for agent, intent in list(unsure)[:MAX_UNSURE]:
            value = plan.hints.get((agent, intent), "")
            holds = f", which holds `{value[:80]}` of it" if value else ""
            _say(out, f"  {_e(intent)} of {_e(agent)}{_e(holds)}")


def print_tree(plan: Plan, title: str) -> None:
    """The tree on stdout; where that is no terminal, a line a call however long it is."""
    wide = None if sys.stdout.isatty() else MAX_LINE_CHARS
    Console(width=wide, highlight=False).print(tree_of(plan, title))


def tree_of(plan: Plan, title: str) -> Tree:
    """The calls, each under the one it followed from most closely."""
    tree = Tree(f"[bold]{_e(title)}[/bold]")
    branches: dict[Key, Tree] = {}
    for key in plan.cascade.calls:  # parents are found before what followed from them
        links = plan.cascade.links.get(key, [])
        link = closest(plan, links)
        above = branches.get(link.parent, tree) if link else tree
        how = f"[dim]{link.how}[/dim] " if link else ""
        branches[key] = above.add(how + _line(plan.steps[key]))
    return tree


def closest(plan: Plan, links: list[Link]) -> Link | None:
    """The link that says most; of several, that to the latest call."""
    if not links:
        return None
    return min(links, key=lambda one: (_CLOSEST.index(one.how), -plan.steps[one.parent].call.decided_at))


def rows(plan: Plan) -> list[dict[str, object]]:
    """The calls in the order in which they are taken back, for machines."""
    found: list[dict[str, object]] = []
    for key, step in plan.steps.items():
        link = closest(plan, plan.cascade.links.get(key, []))
        found.append(
            {
                "intent_id": key[1], "agent_id": key[0], "session_id": step.call.session_id, "tool": step.call.tool,
                "class": step.call.tool_class, "state": step.call.state, "followed_from": link.parent[1] if link else "",
                "how": link.how if link else "", "stands": step.stands, "why": step.why, "undo": step.undo,
                "undo_tool": step.undo_tool, "arguments": step.arguments, "undone": step.undone, "verified": step.verified,
            }
        )  # fmt: skip
    return found


def as_json(plan: Plan, order: int) -> dict[str, object]:
    """For `-o json`."""
    return {
        "saga": plan.saga, "by": plan.by, "order": order, "left": [s.call.intent_id for s in plan.left],
        "cannot": [{"intent_id": s.call.intent_id, "agent_id": s.call.agent_id, "why": s.why} for s in plan.cannot],
        "unsure": [
            {"intent_id": i, "agent_id": a, "holds": plan.hints.get((a, i), "")} for a, i in plan.cascade.unsure
        ],
        "calls": rows(plan),
    }  # fmt: skip


def _line(step: Step) -> str:
    colour = _COLOUR[step.stands]
    call = f"{step.undo_tool} {json.dumps(step.arguments, ensure_ascii=False)}"
    if step.stands == TODO and step.undone:
        text = f"undone by {step.undo}, to be read back"
    elif step.stands == TODO:
        text = f"to do: {call}" + (f", {step.undo} is `{step.undo_state}`" if step.undo_state else "")
    elif step.stands == DONE:
        text = f"taken back by {step.undo}" + (", read back" if step.verified else "")
    elif step.stands == LEFT:
        text = f"left: {step.why}"
    else:
        text = f"{'nothing to take back' if step.stands == NOTHING else 'cannot'}: {step.why}"
    return f"{_name(step)} [{colour}]{_e(text)}[/{colour}]"


def _name(step: Step) -> str:
    kind = f" ({step.call.tool_class})" if step.call.tool_class else ""
    return f"[bold]{_e(step.call.tool)}[/bold]{kind} {_e(step.call.intent_id)} of {_e(step.call.agent_id)}"


def _e(text: str) -> str:
    return escape(printable(text))


def _say(out: Console, text: str) -> None:
    out.print(text, highlight=False)
