"""The files of a new project: an agent, a release, tests of both, CI. `sluicegate init` writes them.

Templates lie in `project/`; PROJECT in them is the project's name. Files that Python tools would take for our own end in `.txt`.
Never writes: it answers what to write. Next: `commands/init.py`.
"""

from __future__ import annotations

import json
import re
from importlib import resources

from sluicegate.processors.releases.schema import FILE_NAME, release_schema
from sluicegate.schemas.errors import WrongUsage

PLACES = {
    "README.md.txt": "README.md", "tools.py.txt": "tools.py", "conftest.py.txt": "conftest.py",
    "test_refunds.py.txt": "tests/test_refunds.py", "ci.yml": ".github/workflows/ci.yml",
    "release.yaml": "release/release.yaml", "agents.yaml": "release/agents.yaml", "get_order.json": "release/contracts/get_order.json",
    "refund.json": "release/contracts/refund.json", "refunds.cedar": "release/policies/refunds.cedar",
    "refunds.yaml": "release/tests/refunds.yaml",
}  # fmt: skip
"""Template -> file of the project."""
FRAMEWORKS = {
    "none": ("agent_sdk.py.txt", ""),
    "langgraph": ("agent_langgraph.py.txt", "[langgraph]"),
    "openai-agents": ("agent_openai_agents.py.txt", "[openai-agents]"),
    "pydantic-ai": ("agent_pydantic_ai.py.txt", "[pydantic-ai]"),
}
"""Framework -> template of the agent, extra of the package."""
REQUIREMENTS = """\
# {package} is taken from your own package index. Where none has it, pip may find nothing or somebody else's: name its repository,
# {package} @ git+https://HOST/PATH@COMMIT
{package}
pytest>=8
"""
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def project_files(name: str, framework: str) -> dict[str, str]:
    """Path -> text. Raises `Terminal` for a name that cannot be a release's, and an unknown framework."""
    if not NAME.fullmatch(name):
        raise WrongUsage(
            f"the name `{name[:80]}` is not 1 to 64 of a-z, digits and `-`: give one with --name"
        )
    if framework not in FRAMEWORKS:
        raise WrongUsage(f"there is no project for `{framework[:40]}`: choose one of {', '.join(FRAMEWORKS)}")
    agent, extra = FRAMEWORKS[framework]
    folder = resources.files("sluicegate.streams") / "project"
    places = {**PLACES, agent: "agent.py"}
    found = {
        place: (folder / template).read_text("utf-8").replace("PROJECT", name)
        for template, place in places.items()
    }
    found["requirements.txt"] = REQUIREMENTS.format(package=f"sluicegate{extra}")
    found[f"release/{FILE_NAME}"] = json.dumps(release_schema(), indent=2) + "\n"
    found[".gitignore"] = ".venv/\n__pycache__/\n.sluicegate/\n"
    return dict(sorted(found.items()))
