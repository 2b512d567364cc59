"""The Linux calls and numbers that Python does not offer, by name, for x86-64, aarch64 and the i386 entry."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Final

LIBC: Final = ctypes.CDLL(None, use_errno=True)
MACHINE: Final = platform.machine()

CLONE_NEWTIME: Final = 0x00000080
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

PR_SET_PDEATHSIG: Final = 1
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18

AUDIT_X86_64: Final = 0xC000003E
AUDIT_I386: Final = 0x40000003
AUDIT_AARCH64: Final = 0xC00000B7
AUDIT_ARM: Final = 0x40000028

_X86_64: Final = {
    "poll": 7, "select": 23, "nanosleep": 35, "alarm": 37, "setitimer": 38, "socket": 41, "connect": 42,
    "sendto": 44, "sendmsg": 46, "bind": 49, "gettimeofday": 96, "sysinfo": 99, "ptrace": 101, "adjtimex": 159,
    "time": 201, "futex": 202, "semtimedop": 220, "timer_settime": 223, "clock_gettime": 228,
    "clock_nanosleep": 230, "epoll_wait": 232, "mq_timedsend": 242, "mq_timedreceive": 243, "pselect6": 270,
    "ppoll": 271, "unshare": 272, "epoll_pwait": 281, "timerfd_settime": 286, "rt_sigtimedwait": 128,
    "recvmmsg": 299, "clock_adjtime": 305, "sendmmsg": 307, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "seccomp": 317, "io_uring_setup": 425, "io_uring_enter": 426, "pidfd_open": 434,
    "pidfd_getfd": 438, "epoll_pwait2": 441, "mount_setattr": 442, "futex_waitv": 449, "futex_wait": 455,
    "capset": 126, "pivot_root": 155, "tgkill": 234,
}  # fmt: skip
_AARCH64: Final = {
    "epoll_pwait": 22, "pselect6": 72, "ppoll": 73, "timerfd_settime": 86, "unshare": 97, "futex": 98,
    "nanosleep": 101, "setitimer": 103, "timer_settime": 110, "clock_gettime": 113, "clock_nanosleep": 115,
    "ptrace": 117, "rt_sigtimedwait": 137, "gettimeofday": 169, "adjtimex": 171, "sysinfo": 179,
    "mq_timedsend": 182, "mq_timedreceive": 183, "semtimedop": 192, "socket": 198, "bind": 200, "connect": 203,
    "sendto": 206, "sendmsg": 211, "recvmmsg": 243, "clock_adjtime": 266, "setns": 268, "sendmmsg": 269,
    "process_vm_readv": 270, "process_vm_writev": 271, "seccomp": 277, "io_uring_setup": 425,
    "io_uring_enter": 426, "pidfd_open": 434, "pidfd_getfd": 438, "epoll_pwait2": 441, "mount_setattr": 442,
    "futex_waitv": 449, "futex_wait": 455, "capset": 91, "pivot_root": 41, "tgkill": 131,
}  # fmt: skip
_I386: Final = {
    "time": 13, "alarm": 27, "gettimeofday": 78, "socketcall": 102, "setitimer": 104, "sysinfo": 116,
    "adjtimex": 124, "nanosleep": 162, "poll": 168, "clock_gettime": 265, "clock_nanosleep": 267,
    "sendmmsg": 345, "setns": 346, "socket": 359, "connect": 362, "sendto": 369, "sendmsg": 370,
    "clock_gettime64": 403, "clock_nanosleep_time64": 407, "io_uring_setup": 425,
}  # fmt: skip

NUMBERS: Final[dict[int, dict[str, int]]] = {AUDIT_X86_64: _X86_64, AUDIT_AARCH64: _AARCH64, AUDIT_I386: _I386}
NATIVE: Final = {"x86_64": AUDIT_X86_64, "aarch64": AUDIT_AARCH64}.get(MACHINE, 0)
NAMES: Final = {arch: {nr: name for name, nr in table.items()} for arch, table in NUMBERS.items()}
NR: Final = NUMBERS.get(NATIVE, {})


def check(result: int, what: str) -> int:
    """The result itself; a negative one becomes OSError with errno's text and ``what``."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(name: str, *args: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Result of a system call by name.

    Raises:
        OSError: the call failed, or this machine's table lacks it.
    """
    if name not in NR:
        raise OSError(38, f"{name}: no number for {MACHINE}")
    wide = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return check(int(LIBC.syscall(ctypes.c_long(NR[name]), *wide)), name)


def unshare(flags: int) -> None:
    """Leaves the namespaces named by ``flags``."""
    check(LIBC.unshare(ctypes.c_int(flags)), "unshare")


def fork_into(flags: int) -> int:
    """Like fork(2), with the child in new namespaces; only for a process of one thread.

    unshare(CLONE_NEWPID) would forbid the caller to make threads afterwards.
    """
    numbers = {AUDIT_X86_64: 56, AUDIT_AARCH64: 220}
    if NATIVE not in numbers:
        raise OSError(38, f"clone: no number for {MACHINE}")
    longs = [ctypes.c_long(value) for value in (numbers[NATIVE], flags | 17, 0, 0, 0, 0)]
    return check(int(LIBC.syscall(*longs)), "clone")


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """Sets an attribute of this process (prctl)."""
    longs = [ctypes.c_ulong(value) for value in (a, b, c, d)]
    return check(LIBC.prctl(ctypes.c_int(option), *longs), "prctl")


def mount(source: str, target: str, kind: str = "", *, flags: int = 0, data: str = "") -> None:
    """Mounts a file system, or binds a path."""
    status = LIBC.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    check(status, f"mount {kind or 'bind'} on {target}")


def unmount_lazily(target: str) -> None:
    """umount2(MNT_DETACH)."""
    check(LIBC.umount2(target.encode(), ctypes.c_int(2)), f"umount {target}")


def pidfd_open(pid: int) -> int:
    """A descriptor of a process."""
    return syscall("pidfd_open", pid, 0)


def steal_fd(pid: int, number: int) -> int:
    """A duplicate of another process's descriptor (needs ptrace rights over it)."""
    pidfd = pidfd_open(pid)
    try:
        return syscall("pidfd_getfd", pidfd, number, 0)
    finally:
        os.close(pidfd)


def read_memory(pid: int, address: int, size: int) -> bytes:
    """Bytes of another process's memory; shorter at the end of a mapping, empty when it cannot be read."""
    if size <= 0 or address <= 0:
        return b""
    buffer = ctypes.create_string_buffer(size)
    local = struct.pack("QQ", ctypes.addressof(buffer), size)
    remote = struct.pack("QQ", address, size)
    try:
        count = syscall("process_vm_readv", pid, local, 1, remote, 1, 0)
    except OSError:
        return b""
    return buffer.raw[:count]


def write_memory(pid: int, address: int, data: bytes) -> bool:
    """Writes another process's memory, read-only pages too (private copy); False when it cannot."""
    try:
        handle = os.open(f"/proc/{pid}/mem", os.O_WRONLY)
    except OSError:
        return False
    try:
        return os.pwrite(handle, data, address) == len(data)
    except OSError:
        return False
    finally:
        os.close(handle)


def drop_capabilities(keep: frozenset[int]) -> None:
    """Empties every capability set of this process except ``keep`` (numbers of capability.h)."""
    for number in range(41):
        if number not in keep:
            try:
                prctl(PR_CAPBSET_DROP, number)
            except OSError:
                break
    prctl(PR_CAP_AMBIENT, 4)
    held = effective_capabilities()
    mask = sum(1 << number for number in keep) & held
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("Ii", 0x20080522, 0)
    data = struct.pack("IIIIII", low, low, 0, high, high, 0)
    syscall("capset", header, data)


def effective_capabilities(pid: int | str = "self") -> int:
    """Bit mask of the effective capabilities of a process."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0
