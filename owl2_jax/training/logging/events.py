"""TensorBoard event files of scalars, written by hand.

An event file is a sequence of TFRecords, each a serialised `Event` message.
Writing the six fields needed here keeps the start of a run short: the ready
writers import PyTorch or TensorFlow where those are installed.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from owl2_jax.core.append_file import AppendFile

# Field numbers and wire types of `tensorflow.Event`, `Summary` and `SessionLog`.
_WALL_TIME: Final = 1 << 3 | 1
_STEP: Final = 2 << 3 | 0
_FILE_VERSION: Final = 3 << 3 | 2
_SUMMARY: Final = 5 << 3 | 2
_SESSION_LOG: Final = 7 << 3 | 2
_VALUE: Final = 1 << 3 | 2
_TAG: Final = 1 << 3 | 2
_SIMPLE_VALUE: Final = 2 << 3 | 5
_SESSION_START: Final = b"\x08\x01"


class EventWriter:
    """Appends scalars to a new event file of a directory.

    Args:
      directory: made when missing.
      first_step: readers drop what older files hold of this step and later.
    """

    def __init__(self, directory: Path, first_step: int) -> None:
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = AppendFile(directory / name)
        self._write(_bytes(_FILE_VERSION, b"brain.Event:2"))
        self._write(_step(first_step) + _bytes(_SESSION_LOG, _SESSION_START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one event with a value per tag; it is in the file when this returns.

        Raises:
          Owl2Error: the disk is full; the file holds whole events.
        """
        summary = b"".join(
            _bytes(_VALUE, _bytes(_TAG, tag.encode()) + bytes([_SIMPLE_VALUE]) + struct.pack("<f", value))
            for tag, value in values.items()
        )
        self._write(_step(step) + _bytes(_SUMMARY, summary))

    def flush(self) -> None:
        """Has all events so far where TensorBoard meets them. Raises `Owl2Error`."""
        self._file.flush()

    def close(self) -> None:
        """Writes what is left and closes the file."""
        self._file.close()

    def _write(self, fields: bytes) -> None:
        data = bytes([_WALL_TIME]) + struct.pack("<d", time.time()) + fields
        length = struct.pack("<Q", len(data))
        self._file.write(length + _masked_crc(length) + data + _masked_crc(data))


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _bytes(field: int, data: bytes) -> bytes:
    return bytes([field]) + _varint(len(data)) + data


def _step(step: int) -> bytes:
    return bytes([_STEP]) + _varint(step)


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli, reflected
        table.append(value)
    return table


_CRC_TABLE: Final = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    """CRC-32C as TFRecords store it: rotated and shifted, so that a CRC of CRCs keeps its strength."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
