"""Asking a guest, through its agent, how it is doing.

Owns what is asked. Does not own the agent's protocol (`qga`), nor which addresses are trusted
(`vm.life.guestnet`).
"""

from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import GuestAgentError
from qemu_node.qemu.spec import OsFamily
from qemu_node.qga.agent import GuestAgent
from qemu_node.vm.life.guestnet import useful_addresses
from qemu_node.vm.record.record import VMRecord

# The agent serves one client at a time, and others use it too: a silent one gets little time.
_PING_TIMEOUT_S = 2.0
_EXEC_TIMEOUT_S = 15.0
# A UEFI variable in efivarfs: four bytes of attributes, then its value.
_SECURE_BOOT_PATH = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestFacts:
    """What a guest says about itself."""

    host_name: str
    addresses: tuple[str, ...]
    """IP addresses, no loopback or link-local ones."""
    secure_boot: bool | None
    """As the guest's kernel sees it; None if it was not asked or has no UEFI."""


class AgentWatch:
    """Asks through the guest agent. Secure Boot is asked once, where the job allows commands."""

    def __init__(self, record: VMRecord) -> None:
        self._agent = GuestAgent(Path(record.sockets.qga), Path(record.qga_lock))
        self._may_exec = record.allow_exec and record.hardware.os is OsFamily.LINUX
        self._secure_boot: bool | None = None

    async def look(self) -> GuestFacts | None:
        """Return what the guest says; None while its agent does not answer."""
        try:
            await self._agent.ping(timeout_s=_PING_TIMEOUT_S)
            host_name = await self._agent.host_name()
            interfaces = await self._agent.network_interfaces()
            if self._may_exec and self._secure_boot is None:
                self._secure_boot = await self._read_secure_boot()
        except GuestAgentError:
            return None
        addresses = [address for item in interfaces for address in item.addresses]
        return GuestFacts(
            host_name=host_name,
            addresses=useful_addresses(addresses),
            secure_boot=self._secure_boot,
        )

    async def _read_secure_boot(self) -> bool | None:
        result = await self._agent.run(["cat", _SECURE_BOOT_PATH], timeout_s=_EXEC_TIMEOUT_S)
        self._may_exec = False
        return parse_secure_boot(result.stdout) if result.exit_code == 0 else None


def parse_secure_boot(content: bytes) -> bool | None:
    """Return what the EFI variable SecureBoot says; None if `content` is not one."""
    return content[4] == 1 if len(content) == 5 else None
