"""Who did what, when, to which VM: lines for the journal.

Owns their form. No secret is in one: no token, ticket, cookie, key or text that was typed.
"""

import logging

log = logging.getLogger("qemu_node.audit")


def note(
    action: str,
    *,
    user: str = "",
    session: str = "",
    vm_id: str = "",
    namespace: str = "",
    peer: str = "",
    **fields: object,
) -> None:
    """Write that somebody did something.

    Args:
        action: A word or two, the same each time.
        user: Who, as `Grant.user`.
        session: Its id, which is no secret.
        vm_id: Which VM; empty: none.
        namespace: Of its job.
        peer: The address of his connection.
        fields: What else is worth knowing.
    """
    known = {
        "user": user,
        "session": session,
        "vm_id": vm_id,
        "namespace": namespace,
        "peer": peer,
    }
    log.info(action, extra={name: value for name, value in known.items() if value} | fields)
