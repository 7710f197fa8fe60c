"""The account's ssh keys over REST v2. PUT replaces the whole list: who adds one keeps the others."""

from collections.abc import Sequence

from infra.clouds.runpod_answers import failure
from infra.clouds.runpod_reads import SSH_KEYS, Reads


class SshKeys:
    """The part of a `Cloud` that knows keys."""

    _reads: Reads

    def ssh_keys(self) -> list[str]:
        return self._reads.ssh_keys()

    def replace_ssh_keys(self, keys: Sequence[str]) -> None:
        answer = self._reads.send("PUT", SSH_KEYS, body={"keys": list(keys)})
        if not answer.ok:
            raise failure(answer, "writing the account's ssh keys")
