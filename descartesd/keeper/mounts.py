"""Which paths may keep a caller waiting: those on a file system that another program serves.

A server or a program that hangs keeps whoever touches its files from going on, beyond the reach of
any signal. Found out without touching them: the table of mounts names the kinds, and a path is
resolved from the kernel's cache alone, which never waits (openat2(2), RESOLVE_CACHED).
"""

from __future__ import annotations

import errno
import os
import select
from typing import Final

from descartesd.keeper import kernel

# Served by the kernel from memory or a disk. Whatever is not here may be served by anybody.
LOCAL: Final = frozenset(
    (
        *("bcachefs", "bdev", "binfmt_misc", "bpf", "btrfs", "cgroup", "cgroup2", "configfs"),
        *("debugfs", "devpts", "devtmpfs", "efivarfs", "erofs", "exfat", "ext2", "ext3", "ext4"),
        *("f2fs", "fusectl", "hugetlbfs", "iso9660", "jfs", "mqueue", "nsfs", "ntfs3", "overlay"),
        *("proc", "pstore", "ramfs", "reiserfs", "securityfs", "selinuxfs", "squashfs", "sysfs"),
        *("tmpfs", "tracefs", "udf", "vfat", "xfs", "zfs"),
    )
)
# Mounted where no agent has a file: systemd has one on every host.
_OF_THE_KERNEL: Final = (b"/proc/", b"/sys/", b"/dev/")
_UNANSWERED: Final = (errno.EAGAIN, errno.EINVAL, errno.ENOSYS, errno.EPERM)
_TABLE: Final = "/proc/self/mountinfo"


class Mounts:
    """The mounts of this process's namespace, read again when they have changed."""

    def __init__(self) -> None:
        self._table = os.open(_TABLE, os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._table, select.POLLPRI)
        self._doubtful = self._read()

    def close(self) -> None:
        """Close the table."""
        os.close(self._table)

    @property
    def doubtful(self) -> frozenset[int]:
        """The ids of the mounts that may keep a caller waiting; on most hosts there are none."""
        if self._changes.poll(0):
            self._doubtful = self._read()
        return self._doubtful

    def may_wait(self, path: str) -> bool:
        """Whether looking at this path may wait for another program, or cannot be known."""
        doubtful = self.doubtful
        if not doubtful:
            return False
        try:
            fd = kernel.open_cached(path.encode())
        except OSError as exc:
            # Any other error is the answer whoever looks will get, at once.
            return exc.errno in _UNANSWERED
        try:
            return _mount_of(fd) in doubtful
        finally:
            os.close(fd)

    def _read(self) -> frozenset[int]:
        os.lseek(self._table, 0, os.SEEK_SET)
        parts = []
        while part := os.read(self._table, 65536):
            parts.append(part)
        return frozenset(filter(None, map(_doubtful, b"".join(parts).splitlines())))


def _doubtful(line: bytes) -> int | None:
    """The id of a mount that is not local, from its line (proc(5))."""
    head, _, tail = line.partition(b" - ")
    fields = head.split()
    kind = tail.split(b" ", 1)[0].decode(errors="replace")
    if kind in LOCAL or fields[4].startswith(_OF_THE_KERNEL):
        return None
    return int(fields[0])


def _mount_of(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        line = next(line for line in file if line.startswith(b"mnt_id:"))
    return int(line.split()[1])
