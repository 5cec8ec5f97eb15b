"""Which accelerator runs guests on this host, and what earlier proofs have shown of that.

Owns the choice between KVM and TCG, and the memory of proofs. Does not own the proof (`proof`).

A success is written down and holds while boot, kernel, QEMU, firmware and device stay the same. A
failure is never written down: what caused it (a closed directory, a moment without memory) may be
gone a minute later. This process tries again, more and more rarely.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from qemu_node.errors import MissingPartError, NodeError
from qemu_node.host.files.atomic import write_atomic
from qemu_node.qemu.accel.proof import AcceleratorProof, ProofGuest, proof_key, prove
from qemu_node.qemu.spec import Accelerator
from qemu_node.text import DECODE_ERRORS

log = logging.getLogger(__name__)

RETRY_FIRST_S = 30.0
RETRY_MAX_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorChoice:
    """The accelerator to use."""

    accelerator: Accelerator
    kvm_problem: str | None = None
    """Why it is not KVM, one sentence; None: it is, or KVM was not asked for."""
    kvm_detail: str = ""
    """QEMU's own words about that."""
    is_kvm_lost: bool = False
    """KVM ran guests here before, and does not now."""


class _Success(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    key: str
    proof: AcceleratorProof
    pause_s: float
    retry_at: float


class ProofMemory:
    """What proofs have shown: successes in a file, failures in this object.

    Args:
        path: The file; its directory exists, or nothing is remembered.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failures: dict[Accelerator, _Failure] = {}

    def recall(self, accelerator: Accelerator, key: str) -> AcceleratorProof | None:
        """Return what is known for the conditions `key`; None: it has to be proven now."""
        success = self._successes().get(accelerator.value)
        if success is not None and success.key == key:
            return AcceleratorProof(accelerator=accelerator, works=True)
        failure = self._failures.get(accelerator)
        if failure is not None and failure.key == key and time.monotonic() < failure.retry_at:
            return failure.proof
        return None

    def note(self, proof: AcceleratorProof, key: str) -> None:
        """Remember what was shown for the conditions `key`."""
        if proof.works:
            self._failures.pop(proof.accelerator, None)
            self._write({**self._successes(), proof.accelerator.value: _Success(key=key)})
            return
        last = self._failures.get(proof.accelerator)
        pause_s = RETRY_FIRST_S
        if last is not None and last.key == key:
            pause_s = min(2 * last.pause_s, RETRY_MAX_S)
        self._failures[proof.accelerator] = _Failure(
            key=key, proof=proof, pause_s=pause_s, retry_at=time.monotonic() + pause_s
        )

    def ever_worked(self, accelerator: Accelerator) -> bool:
        """Tell whether it ever ran a guest here, under any conditions."""
        return accelerator.value in self._successes()

    def _successes(self) -> dict[str, _Success]:
        """Return what is written down; a file that cannot be read is an empty one."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Success])
        except FileNotFoundError:
            return {}
        except (OSError, *DECODE_ERRORS) as exc:
            log.warning("proofs not read", extra={"path": str(self._path), "reason": str(exc)})
            return {}

    def _write(self, successes: dict[str, _Success]) -> None:
        try:
            write_atomic(self._path, msgspec.json.encode(successes), mode=0o600)
        except NodeError as exc:
            log.warning("proof not remembered", extra={"reason": exc.explain()})


async def choose_accelerator(
    wanted: Literal["auto", "kvm", "tcg"], guest: ProofGuest, memory: ProofMemory
) -> AcceleratorChoice:
    """Return the accelerator that `wanted` means on this host, proven to run guests.

    Raises:
        MissingPartError: guests do not run under it; with `auto`, not under TCG either.
        HostError: the proof could not be made, as when the disk is full.
    """
    kvm: AcceleratorProof | None = None
    if wanted != "tcg":
        kvm = await _ask(Accelerator.KVM, guest, memory)
        if kvm.works:
            return AcceleratorChoice(accelerator=Accelerator.KVM)
        if wanted == "kvm":
            raise MissingPartError(kvm.explain())
    tcg = await _ask(Accelerator.TCG, guest, memory)
    if not tcg.works:
        raise MissingPartError(tcg.explain())
    if kvm is None:
        return AcceleratorChoice(accelerator=Accelerator.TCG)
    return AcceleratorChoice(
        accelerator=Accelerator.TCG,
        kvm_problem=kvm.problem,
        kvm_detail=kvm.detail,
        is_kvm_lost=memory.ever_worked(Accelerator.KVM),
    )


async def _ask(
    accelerator: Accelerator, guest: ProofGuest, memory: ProofMemory
) -> AcceleratorProof:
    """Return what is known of an accelerator, or prove it."""
    key = proof_key(guest)
    known = memory.recall(accelerator, key)
    if known is not None:
        return known
    proof = await prove(accelerator, guest)
    memory.note(proof, key)
    log.log(
        logging.INFO if proof.works else logging.WARNING,
        "accelerator proven" if proof.works else "accelerator does not run guests",
        extra={"accelerator": accelerator.value, "reason": proof.explain()},
    )
    return proof
