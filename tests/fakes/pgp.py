"""A PGP key of the tests' own, which signs as releases are signed.

RSA with SHA-256 and version 4 packets; RFC 9580, sections 4, 5.2, 5.5 and 5.13.
"""

import base64
import hashlib
import secrets

_EXPONENT = 65537
_PRIME_BITS = 1024
_CREATED = 1767225600
_USER = b"A publisher <publisher@example.net>"
_BINARY, _CERTIFICATION, _REVOCATION = 0x00, 0x13, 0x20
_PUBLIC_KEY, _SIGNATURE, _USER_ID = 6, 2, 13
# DigestInfo of SHA-256 (RFC 8017, 9.2).
_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


def _is_prime(number: int) -> bool:
    """Tell it by Miller and Rabin's test; wrong once in 4 to the 20th."""
    if any(number % small == 0 for small in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31)):
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(20):
        power = pow(secrets.randbelow(number - 3) + 2, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def _prime() -> int:
    while True:
        # With both upper bits set the product of two has twice the bits.
        number = secrets.randbits(_PRIME_BITS) | 3 << (_PRIME_BITS - 2) | 1
        if (number - 1) % _EXPONENT and _is_prime(number):
            return number


def _mpi(number: int) -> bytes:
    return number.bit_length().to_bytes(2) + number.to_bytes((number.bit_length() + 7) // 8)


def _packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4) + body


def _subpacket(kind: int, body: bytes) -> bytes:
    return bytes([len(body) + 1, kind]) + body


class PgpKey:
    """A key pair, and what its owner publishes."""

    def __init__(self) -> None:
        first, second = _prime(), _prime()
        self._modulus = first * second
        self._secret = pow(_EXPONENT, -1, (first - 1) * (second - 1))
        self._body = (
            b"\x04" + _CREATED.to_bytes(4) + b"\x01" + _mpi(self._modulus) + _mpi(_EXPONENT)
        )
        self._hashed_key = b"\x99" + len(self._body).to_bytes(2) + self._body
        self._fingerprint = hashlib.sha1(self._hashed_key, usedforsecurity=False).digest()

    @property
    def fingerprint(self) -> str:
        return self._fingerprint.hex().upper()

    def sign(self, document: bytes) -> bytes:
        """Return a detached signature."""
        return self._signature(_BINARY, document)

    def armoured(self, *, is_revoked: bool = False) -> bytes:
        """Return the public key as a page has it."""
        certified = self._hashed_key + b"\xb4" + len(_USER).to_bytes(4) + _USER
        block = _packet(_PUBLIC_KEY, self._body)
        if is_revoked:
            block += self._signature(_REVOCATION, self._hashed_key)
        block += _packet(_USER_ID, _USER) + self._signature(_CERTIFICATION, certified)
        lines = base64.encodebytes(block).decode()
        name = "PGP PUBLIC KEY BLOCK"
        return f"-----BEGIN {name}-----\n\n{lines}-----END {name}-----\n".encode()

    def _signature(self, kind: int, signed: bytes) -> bytes:
        hashed = _subpacket(2, _CREATED.to_bytes(4)) + _subpacket(33, b"\x04" + self._fingerprint)
        if kind == _CERTIFICATION:
            hashed += _subpacket(27, b"\x03")  # may certify and sign
        if kind == _REVOCATION:
            hashed += _subpacket(29, b"\x02")  # the key has been compromised
        head = bytes([4, kind, 1, 8]) + len(hashed).to_bytes(2) + hashed
        digest = hashlib.sha256(signed + head + b"\x04\xff" + len(head).to_bytes(4)).digest()
        size = (self._modulus.bit_length() + 7) // 8
        info = _DIGEST_INFO + digest
        padded = b"\x00\x01" + b"\xff" * (size - len(info) - 3) + b"\x00" + info
        value = pow(int.from_bytes(padded), self._secret, self._modulus)
        unhashed = _subpacket(16, self._fingerprint[-8:])
        body = head + len(unhashed).to_bytes(2) + unhashed + digest[:2] + _mpi(value)
        return _packet(_SIGNATURE, body)
