"""A session for tests of handlers that ask what somebody may do."""

from qemu_node.web.access.acl.nomadacl import MANAGEMENT, Acl
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.access.session.grant import Grant
from qemu_node.web.access.session.sessions import Session


def make_session(acl: Acl = MANAGEMENT) -> Session:
    """Return one that does not end."""
    return Session(
        id="0", user="me", auth="open", acl=acl, ends_at=1e9, idle_s=1e9, used_at=0, checked_at=0
    )


def make_grant(right: Right = Right.SEE, acl: Acl = MANAGEMENT) -> Grant:
    """Return the grant of one."""
    return Grant(user="me", right=right, session=make_session(acl))
