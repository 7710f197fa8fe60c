"""Stands for GitHub's command line in a simulated workflow: the few commands that workflows call, over the same API.

`api PATH [-X METHOD] [-f KEY=VALUE]… [--jq .KEY]` · `pr create` · `pr view BRANCH --json KEY --jq .KEY` ·
`auth setup-git`, which has nothing to do for a remote that is a folder.
"""

import json
import os
import re
import sys
from typing import Any

import httpx


def main(words: list[str]) -> int:
    with httpx.Client(
        base_url=os.environ["GITHUB_API_URL"],
        headers={"Authorization": f"Bearer {os.environ.get('GH_TOKEN', '')}"},
        timeout=30,
        trust_env=False,
        verify=False,
    ) as client:
        match words:
            case ["auth", "setup-git"]:
                return 0
            case ["api", *rest]:
                return _api(client, rest)
            case ["pr", "create", *rest]:
                given = _options(rest)
                names = ("head", "base", "title", "body")
                sent = {name: given[f"--{name}"] for name in names}
                return _show(client.post(f"/repos/{os.environ['GITHUB_REPOSITORY']}/pulls", json=sent), "")
            case ["pr", "view", branch, "--json", key, "--jq", wanted]:
                return _view(client, branch, key, wanted)
            case _:
                print(f"gh: {' '.join(words[:2])} is not emulated", file=sys.stderr)
                return 64


def _api(client: httpx.Client, words: list[str]) -> int:
    method, path, wanted, body = "GET", "", "", dict[str, Any]()
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "-X":
            method = left.pop(0)
        elif word == "-f":
            key, _, value = left.pop(0).partition("=")
            nested = re.fullmatch(r"(\w+)\[(\w+)\]", key)
            if nested:
                body.setdefault(nested[1], {})[nested[2]] = value
            else:
                body[key] = value
        elif word == "--jq":
            wanted = left.pop(0)
        else:
            path = word
    return _show(client.request(method, f"/{path}", json=body or None), wanted)


def _view(client: httpx.Client, branch: str, key: str, wanted: str) -> int:
    repo = os.environ["GITHUB_REPOSITORY"]
    query = {"head": f"{repo.partition('/')[0]}:{branch}", "state": "all"}
    answer = client.get(f"/repos/{repo}/pulls", params=query)
    if answer.is_error:
        return _show(answer, "")
    found = answer.json()
    if not found:
        print(f'no pull requests found for branch "{branch}"', file=sys.stderr)
        return 1
    newest = found[-1]
    state = "MERGED" if newest["merged_at"] else str(newest["state"]).upper()
    print({"state": state}[key] if wanted == f".{key}" else json.dumps({key: state}))
    return 0


def _show(answer: httpx.Response, wanted: str) -> int:
    if answer.is_error:
        print(f"gh: {answer.json().get('message')} (HTTP {answer.status_code})", file=sys.stderr)
        return 1
    if answer.content:
        found = answer.json()
        print(found[wanted.removeprefix(".")] if wanted else json.dumps(found))
    return 0


def _options(words: list[str]) -> dict[str, str]:
    return dict(zip(words[0::2], words[1::2], strict=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
