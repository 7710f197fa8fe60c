"""The account's ssh keys over REST v2. PUT replaces the whole list: who adds one keeps the others."""

from collections.abc import Sequence

from infra.clouds.runpod.answers import SPEAKS
from infra.clouds.runpod.reads import SSH_KEYS, Reads
from infra.clouds.wire import Call, Wire


class SshKeys:
    """The part of a `Cloud` that knows keys."""

    _http: Wire
    _reads: Reads

    def ssh_keys(self) -> list[str]:
        return self._reads.ssh_keys()

    def replace_ssh_keys(self, keys: Sequence[str]) -> None:
        # Never sent twice by itself: what somebody else wrote in between would be gone.
        body, timeout_s = {"keys": list(keys)}, self._http.limits.read_s
        answer = self._http.send(Call(method="PUT", path=SSH_KEYS, body=body, timeout_s=timeout_s, repeatable=False))
        if not answer.ok:
            raise SPEAKS.failure(answer, "writing the account's ssh keys")
