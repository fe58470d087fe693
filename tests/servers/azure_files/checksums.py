"""The CRC of 64 bits that Azure Storage uses; its bytes are sent with the lowest first."""

_POLYNOMIAL = 0x9A6C9329AC4BC9B5  # with its bits in reverse, as they are shifted out
_ALL = (1 << 64) - 1


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _table()


def crc64(data: bytes) -> bytes:
    """Return the checksum."""
    value = _ALL
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return (value ^ _ALL).to_bytes(8, "little")
