"""Whose VM it is, and the names that follow from it: pure."""

import hashlib
import re
import uuid

import msgspec

from qemu_node.configdrive.content import HOSTNAME_MAX_CHARS, host_label, sanitise_hostname
from qemu_node.errors import NodeError

VM_ID_MAX_BYTES = 29
"""16 of the task's name, a dash, 12 of the hash; `config` computes socket paths with it."""

VM_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,15}-[0-9a-f]{12}")

STATE_NAME = "state.json"
"""The file in a VM's data directory that means that its start was completed."""


class VMIdError(NodeError, ValueError):
    """What was given as a VM's id does not have the form of one.

    A ValueError as well: msgspec turns those into a decoding error.
    """


_UUID_NAMESPACE = uuid.UUID("6f1c2f0e-6d2c-5d36-9f53-2f6a8a4b6f0a")


def vm_id(alloc_id: str, task_name: str) -> str:
    """Return the name of a task's VM on this node, the same for every start within one allocation.

    An allocation's id is unique over namespaces, jobs, groups and reschedules, and the hash covers
    the task's whole name; the readable part is for people. At most `VM_ID_MAX_BYTES` of
    `[a-z0-9-]`, fit for a path, a QEMU option and a host name.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", task_name.lower()).strip("-")[:16].strip("-") or "vm"
    digest = hashlib.sha256(f"{alloc_id}/{task_name}".encode()).hexdigest()
    return f"{readable}-{digest[:12]}"


def check_vm_id(text: str) -> None:
    """Return if `text` has the form of a VM's id.

    Raises:
        VMIdError: it has not.
    """
    if not VM_ID.fullmatch(text):
        raise VMIdError(f"not the id of a VM: {text!r}")


def default_hostname(job_name: str, group: str, task: str, index: int | None) -> str:
    """Return the host name of a guest whose job names none: a label such as `web-api-3`.

    If group and task have one name, it is in there once, and not at all if the job has it as well.
    Two VMs of one job never have the same host name. A name gets a hash of all if it is too long,
    has characters that no host name can have, or could mean two pairs of group and task (which of
    its hyphens separates them?).
    """
    parts = [job_name, group, task]
    own = [group] if group == task else [group, task]
    label = host_label("-".join([job_name, *(own if own != [job_name] else [])]))
    tail = "" if index is None else f"-{index}"
    # The last hyphen but the index's is the one between them.
    is_plain = all(part == host_label(part) for part in own) and "-" not in own[-1]
    is_whole = is_plain or (own == [job_name] and label != "")
    if not is_whole or len(label + tail) > HOSTNAME_MAX_CHARS:
        digest = hashlib.sha256("/".join(parts).encode()).hexdigest()
        tail = f"-{digest[:8]}{tail}"
        label = label[: HOSTNAME_MAX_CHARS - len(tail)].rstrip("-")
    return sanitise_hostname((label or "vm") + tail)


class TaskIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Whose VM it is, in Nomad's terms."""

    alloc_id: str
    namespace: str
    job_id: str
    job_name: str
    group: str
    task: str
    index: int | None
    """The allocation's index within its group; None where the name carries none."""
    node_name: str

    @property
    def vm_id(self) -> str:
        """The VM's name on this node, the same for every start within the allocation."""
        return vm_id(self.alloc_id, self.task)

    @property
    def uuid(self) -> str:
        """The VM's SMBIOS UUID, likewise."""
        return str(uuid.uuid5(_UUID_NAMESPACE, f"{self.alloc_id}/{self.task}"))

    @property
    def hostname(self) -> str:
        """The guest's host name unless the job's meta_data.json has one."""
        return default_hostname(self.job_name, self.group, self.task, self.index)

    @property
    def display_name(self) -> str:
        """`job/group[index]/task`, as people refer to it; a task named like its group once."""
        index = "" if self.index is None else f"[{self.index}]"
        task = "" if self.task == self.group else f"/{self.task}"
        return f"{self.job_name}/{self.group}{index}{task}"
