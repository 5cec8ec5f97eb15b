"""One-time tokens of Nomad: whoever has made one with his token is who exchanges it.

Owns the two requests. A one-time token counts once, for ten minutes (Nomad 2.0.6,
nomad/acl_endpoint.go); the exchange gives the token with which it was made.
"""

import msgspec

from qemu_node.web.access.acl.nomadapi import NomadApi, NomadError

_MAX_CHARS = 256


class _Secret(msgspec.Struct):
    secret_id: str = msgspec.field(name="SecretID", default="")


class _Exchanged(msgspec.Struct, rename="pascal"):
    token: _Secret | None = None


class _OneTimeSecret(msgspec.Struct):
    secret_id: str = msgspec.field(name="OneTimeSecretID", default="")


class _Made(msgspec.Struct, rename="pascal"):
    one_time_token: _OneTimeSecret | None = None


async def make(api: NomadApi, token: str) -> str:
    """Return a new one-time token of the owner of `token`.

    Raises:
        NomadRefusedError: Nomad makes none for him.
        NomadError: Nomad does not answer.
    """
    made = await api.post("/v1/acl/token/onetime", {}, _Made, token=token)
    if made.one_time_token is None or not made.one_time_token.secret_id:
        raise NomadError("Nomad made no one-time token")
    return made.one_time_token.secret_id


async def exchange(api: NomadApi, text: str) -> str | None:
    """Return the token with which a one-time token was made; None if it can be none.

    Raises:
        NomadRefusedError: it is none, or none any more.
        NomadError: Nomad does not answer.
    """
    if not 0 < len(text) <= _MAX_CHARS:
        return None
    path, body = "/v1/acl/token/onetime/exchange", {"OneTimeSecretID": text}
    answer = await api.post(path, body, _Exchanged, token=None)
    if answer.token is None or not answer.token.secret_id:
        raise NomadError("Nomad did not say which token it was")
    return answer.token.secret_id
