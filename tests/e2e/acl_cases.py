"""Policies for comparing our evaluation of ACLs with Nomad's, and the recorder of its answers.

`NOMAD=… PYTHONPATH=src:tests python -m e2e.acl_cases` writes `tests/data/acl/answers.json` anew.
"""

import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from e2e.acl_agent import AclAgent, running_acl_agent

DATA = Path(__file__).parent.parent / "data/acl/answers.json"
NAMESPACES = (
    "default",
    "dev",
    "dev-a",
    "dev-a-b",
    "prod",
    "prod-web",
    "web",
    "web-dev",
    "a",
    "aa",
    "aba",
    "abab",
    "other",
)
PATTERNS = (
    *NAMESPACES,
    "*",
    "dev*",
    "dev-*",
    "*dev",
    "*-dev",
    "*-*",
    "prod-*",
    "*web",
    "web*",
    "*web*",
    "a*",
    "*a",
    "a*a",
    "*a*",
    "a*b",
    "*ab",
    "ab*",
    "*b*",
    "a*b*",
    "**",
    "d*v*",
    "*e*v*",
    "de*",
    "*ev",
)
GRANTS = (
    'policy = "read"',
    'policy = "write"',
    'policy = "deny"',
    'policy = "scale"',
    'capabilities = ["read-job"]',
    'capabilities = ["scale-job"]',
    'capabilities = ["read-job", "scale-job"]',
    'capabilities = ["deny"]',
    'capabilities = ["read-job", "deny"]',
    'policy = "read"\n  capabilities = ["scale-job"]',
    'policy = "deny"\n  capabilities = ["read-job"]',
    "capabilities = []",
)
NODE = ("", 'node { policy = "read" }', 'node { policy = "write" }', 'node { policy = "deny" }')


def policy_text(entries: dict[str, str], node: str = "") -> str:
    """Return a policy in HCL: pattern → what it grants."""
    blocks = [f'namespace "{name}" {{\n  {grant}\n}}' for name, grant in entries.items()]
    return "\n".join([*blocks, node])


def random_policies(rng: random.Random) -> list[str]:
    """Return the policies of one token."""
    policies = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        names = rng.sample(PATTERNS, rng.choice((1, 2, 4, 8)))
        entries = {name: rng.choice(GRANTS) for name in names}
        policies.append(policy_text(entries, rng.choice(NODE)) or 'node { policy = "deny" }')
    return policies


def chosen_policies() -> list[list[str]]:
    """Return the cases that somebody thought of."""
    read, scale, deny = GRANTS[4], GRANTS[5], GRANTS[2]
    return [
        [policy_text({"default": read}), policy_text({"default": deny})],
        [policy_text({"default": deny, "*": read})],
        [policy_text({"*": deny, "default": read})],
        # Equally close: the order of their names decides.
        [policy_text({"a*a": read, "ab*": scale})],
        [policy_text({"ab*": read, "a*a": scale})],
        [policy_text({"*ab": read, "a*b": scale, "ab*": read})],
        [policy_text({"*": read, "**": scale})],
        [policy_text({"**": read, "*": scale})],
        [policy_text({"a*": deny}), policy_text({"*a": read})],
        [policy_text({"a*b*": read, "a*b": scale})],
        [policy_text({"*e*v*": read, "d*v*": scale})],
        # More than a block of Go's stable sort, of which many are equally close.
        [policy_text({"*" * n + "a" + "*" * m: read for n in range(6) for m in range(1, 6)})],
    ]


async def ask_agent(agent: AclAgent, number: int, policies: list[str]) -> dict[str, Any]:
    """Return the rules of policies in JSON, and what a token with all of them may do."""
    names = [f"p{number}-{n}" for n in range(len(policies))]
    rules = [
        await agent.write_policy(name, text) for name, text in zip(names, policies, strict=True)
    ]
    token = (await agent.make_token(Policies=names))["SecretID"]
    return {
        "rules": rules,
        "may": await agent.may(token, NAMESPACES),
        "may_read_node": await agent.may_read_node(token),
    }


async def record(count: int) -> None:
    """Write the answers of an agent for all chosen and `count` random cases."""
    rng = random.Random(1)
    cases = [*chosen_policies(), *(random_policies(rng) for _ in range(count))]
    with tempfile.TemporaryDirectory() as directory:
        async with running_acl_agent(Path(directory)) as agent:
            _, version = await agent.ask("GET", "/v1/agent/self", token=agent.management)
            answers = [await ask_agent(agent, n, case) for n, case in enumerate(cases)]
            extra = await record_anonymous(agent)
    lines = ",\n".join(
        json.dumps(_short(answer), sort_keys=True, separators=(",", ":"))
        for answer in [*answers, extra]
    )
    number = version["config"]["Version"]["Version"]
    DATA.write_text(f'{{"nomad": "{number}", "cases": [\n{lines}\n]}}\n')
    print(f"{len(answers) + 1} cases of Nomad {number} in {DATA}", file=sys.stderr)  # noqa: T201


async def record_anonymous(agent: AclAgent) -> dict[str, Any]:
    """Return the policy of those without a token, and what they may do."""
    rules = await agent.write_policy(
        "anonymous", policy_text({"dev*": GRANTS[4], "dev": GRANTS[2]})
    )
    return {
        "rules": [rules],
        "may": await agent.may(None, NAMESPACES),
        "may_read_node": await agent.may_read_node(None),
    }


def _short(answer: dict[str, Any]) -> dict[str, Any]:
    """Return a case with what is allowed only, and of the rules what we read."""
    return {
        "rules": [
            {
                "Namespaces": [
                    {"Name": n["Name"], "Policy": n["Policy"], "Capabilities": n["Capabilities"]}
                    for n in rules["Namespaces"] or ()
                ]
                or None,
                "Node": rules["Node"],
            }
            for rules in answer["rules"]
        ],
        "may": {
            namespace: sorted(name for name, may in asked.items() if may)
            for namespace, asked in answer["may"].items()
        },
        "may_read_node": answer["may_read_node"],
    }


if __name__ == "__main__":
    asyncio.run(record(90))
