"""System shared memory: tensors that a client on this host leaves in memory instead of sending.

The client creates a POSIX shared memory object, registers a part of it under a name, and names it
in its requests. Objects are read and written with `pread` and `pwrite`, not mapped: a client that
cuts its object short then gets an error, where a mapping would end this process.

Only a client on this very host may use it, at every single call: otherwise anybody who reaches the
server could read what others have in shared memory.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented
from services.gateway.caller import Caller

FOLDER = Path("/dev/shm")  # noqa: S108  # where Linux keeps POSIX shared memory objects
MAX_REGIONS = 1024
"""Each region holds a file descriptor."""

IPV4 = 4

_KEY = re.compile(r"/?[^/\x00]{1,254}")


@dataclass(frozen=True, slots=True)
class Region:
    """A registered part of a shared memory object; lengths in bytes."""

    name: str
    key: str
    offset: int
    byte_size: int
    descriptor: int


class SharedMemory:
    """The registered regions."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._regions: dict[str, Region] = {}

    def __repr__(self) -> str:
        return f"<SharedMemory {sorted(self._regions)}>"

    def register(self, region: str, key: str, offset: int, byte_size: int, caller: Caller) -> None:
        """Makes a part of an object known under a name.

        Raises:
            Unimplemented: the caller is on another host, or this host has no such memory.
            AlreadyExists: the name is taken.
            InvalidArgument: there is no such object, or it is too short.
        """
        self.check_local(caller)
        if not region:
            raise InvalidArgument("name: the name of the region is missing", field="name")
        if region in self._regions:
            raise AlreadyExists(f"shared memory region '{region}' is registered already")
        if len(self._regions) >= MAX_REGIONS:
            raise InvalidArgument(
                f"name: {MAX_REGIONS} regions are registered already", field="name"
            )
        descriptor = self._open(key)
        size = os.fstat(descriptor).st_size
        if byte_size < 1 or offset < 0 or offset + byte_size > size:
            os.close(descriptor)
            raise InvalidArgument(
                f"byte_size: {byte_size} bytes from {offset} on do not fit the {size} bytes "
                f"of '{key}'",
                field="byte_size",
            )
        self._regions[region] = Region(region, key, offset, byte_size, descriptor)

    def unregister(self, region: str, caller: Caller) -> None:
        """Forgets a region, or all if the name is empty; an unknown name is no error, as in Triton.

        Raises:
            Unimplemented: the caller is on another host.
        """
        self.check_local(caller)
        for name in list(self._regions) if not region else [region]:
            known = self._regions.pop(name, None)
            if known is not None:
                os.close(known.descriptor)

    def status(self, region: str, caller: Caller) -> Mapping[str, Region]:
        """One region, or all if the name is empty.

        Raises:
            Unimplemented: the caller is on another host.
            NotFound: there is no such region.
        """
        self.check_local(caller)
        return {region: self._region(region)} if region else dict(self._regions)

    def read(self, region: str, offset: int, byte_size: int, caller: Caller) -> bytes:
        """What lies in a region from an offset on."""
        found = self._part(region, offset, byte_size, caller)
        data = os.pread(found.descriptor, byte_size, found.offset + offset)
        if len(data) != byte_size:
            raise _cut_short(region)
        return data

    def write(self, region: str, offset: int, data: bytes, caller: Caller) -> None:
        """Puts data into a region from an offset on."""
        found = self._part(region, offset, len(data), caller)
        if os.fstat(found.descriptor).st_size < found.offset + offset + len(data):
            raise _cut_short(region)
        os.pwrite(found.descriptor, data, found.offset + offset)

    def check_local(self, caller: Caller) -> None:
        """Refuses who may use no region.

        Raises:
            Unimplemented: the caller is on another host, or this host has no such memory.
        """
        if not self._folder.is_dir():
            raise Unimplemented("this host has no POSIX shared memory")
        if caller.address is None or not _is_own(caller.address):
            raise Unimplemented("shared memory is for clients on the gateway's own host")

    def check_part(self, region: str, offset: int, byte_size: int, caller: Caller) -> None:
        """Refuses what is no part of a region that is registered.

        Raises:
            Unimplemented: the caller is on another host.
            NotFound: there is no such region.
            InvalidArgument: the part reaches past its region.
        """
        self._part(region, offset, byte_size, caller)

    def close(self) -> None:
        """Lets go of every region."""
        for region in self._regions.values():
            os.close(region.descriptor)
        self._regions.clear()

    def _open(self, key: str) -> int:
        name = key.removeprefix("/")
        if not _KEY.fullmatch(key) or name in ("", ".", ".."):
            raise InvalidArgument("key: is not the name of a shared memory object", field="key")
        try:
            return os.open(self._folder / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidArgument(
                f"key: shared memory object '{key}' cannot be opened: {error.strerror}",
                field="key",
            ) from error

    def _part(self, region: str, offset: int, byte_size: int, caller: Caller) -> Region:
        self.check_local(caller)
        found = self._region(region)
        if offset < 0 or byte_size < 0 or offset + byte_size > found.byte_size:
            raise InvalidArgument(
                f"shared memory region '{region}' has {found.byte_size} bytes, not {byte_size} "
                f"from {offset} on",
                field=region,
            )
        return found

    def _region(self, region: str) -> Region:
        found = self._regions.get(region)
        if found is None:
            raise NotFound(f"there is no shared memory region '{region[:80]}'")
        return found


def _is_own(address: str) -> bool:
    """Whether an address is this host's; for loopback, Envoy tells that of its own host."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.is_loopback:
        return True
    family = socket.AF_INET if parsed.version == IPV4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect((address, 9))  # sends nothing; the route to oneself comes from oneself
        return str(probe.getsockname()[0]) == address
    return False


def _cut_short(region: str) -> InvalidArgument:
    return InvalidArgument(f"shared memory region '{region}' has been cut short", field=region)
