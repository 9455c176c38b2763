"""The world the stand-in phone lives in: namespaces of its own, an Arm userland, and adbd as uid 2000."""

import ctypes
import fcntl
import os
import signal
import socket
import struct
import traceback
from dataclasses import dataclass
from pathlib import Path

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
PIVOT_ROOT, PR_SET_NAME, SIOCSIFFLAGS = 155, 15, 0x8914
BINFMT = (
    rb":standin-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
    rb"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:%s:POCF"
)
libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class World:
    """Where the kit lies and where this phone runs, its listening socket, its processor, and its storage.

    With `space`, in MiB, /data is as small as that and gone when the phone stops.
    """

    kit: str
    run: str
    socket: int
    cpu: str
    space: int = 0


def start(world):
    """Start PID 1 of the phone; return its pid, or raise OSError with what went wrong."""
    read, write = os.pipe()
    uid, gid = os.getuid(), os.getgid()
    if os.fork() == 0:
        _enter(world, write, uid, gid)
    os.close(write)
    os.close(world.socket)
    said = b""
    while part := os.read(read, 4096):
        said += part
    os.close(read)
    os.wait()
    lines = [line.partition(" ") for line in said.decode().splitlines()]
    wrong = [rest for word, _, rest in lines if word == "err"]
    pids = [int(rest) for word, _, rest in lines if word == "pid"]
    if wrong or not pids:
        raise OSError("; ".join(wrong) or "did not start")
    return pids[0]


def _enter(world, write, uid, gid):
    """Leave our session and namespaces, and fork what becomes PID 1; never returns."""
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        log = os.open(f"{world.run}/log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for source, number in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, number)
        os.chdir("/")
        os.umask(0o022)
        for number in set(range(3, 256)) - {world.socket, write}:
            try:
                os.close(number)
            except OSError:
                continue
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _unshare(NEWUSER | NEWNS | NEWPID | NEWUTS | NEWIPC | NEWNET)
        _map_ids(0, uid, gid)
        child = os.fork()
        if child == 0:
            _init(world, write)
        os.write(write, f"pid {child}\n".encode())
    except BaseException as error:
        traceback.print_exc()
        os.write(write, f"err {error}\n".encode())
    finally:
        os._exit(0)


def _init(world, write):
    """PID 1 of the phone: build the world, start adbd, and collect what ends."""
    _build(world)
    env = {
        "PATH": "/system/bin:/usr/bin",
        "HOME": "/data/local/tmp",
        "TMPDIR": "/data/local/tmp",
        "ANDROID_ROOT": "/system",
        "ANDROID_DATA": "/data",
        "QEMU_CPU": world.cpu,
        "ADBD_PROPS": "/vendor/standin/adbd.prop",
        "ADBD_KEYS": "/vendor/standin/adb_keys",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
    }
    adbd = os.fork()
    if adbd == 0:
        try:
            _unshare(NEWUSER)
            _map_ids(2000, 0, 0)  # uid 2000 is `shell`, with no capability left
            os.chdir("/data/local/tmp")
            os.execve("/system/bin/adbd", ["adbd"], env)
        except BaseException as error:
            os.write(write, f"err {error}\n".encode())
            os._exit(1)
    os.close(write)
    os.close(world.socket)
    ended = 0
    while ended != adbd:
        try:
            ended, _ = os.wait()
        except ChildProcessError:
            break
    os._exit(0)  # PID 1 gone: the kernel ends whatever is left in here


def _build(world):
    mnt, root = f"{world.run}/root", f"{world.kit}/phone/rootfs"
    _mount("none", "/", None, REC | PRIVATE)
    _bind(root, mnt)
    with socket.socket() as loopback:  # lo up, in the phone's own network
        fcntl.ioctl(loopback, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", 0x41, b""))
    socket.sethostname("localhost")
    libc.prctl(PR_SET_NAME, b"init", 0, 0, 0)
    _bind(f"{world.kit}/board/root/usr", mnt + "/usr", readonly=True)
    _bind(f"{world.kit}/site", mnt + "/opt/site", readonly=True)
    if world.space:
        _small(mnt + "/data", world.space)
    else:
        _bind(f"{world.run}/data", mnt + "/data")
    _bind(f"{world.run}/sys", mnt + "/sys", readonly=True)
    _bind(f"{world.run}/vendor", mnt + "/vendor/standin", readonly=True)
    _devices(mnt)
    _mount("proc", mnt + "/proc", "proc", NOSUID | NODEV | NOEXEC)
    _bind(f"{world.run}/cpuinfo", mnt + "/proc/cpuinfo", readonly=True)
    _bind(mnt + "/proc/sys", mnt + "/proc/sys", readonly=True)
    if os.path.exists(mnt + "/proc/sysrq-trigger"):
        _bind("/dev/null", mnt + "/proc/sysrq-trigger")
    _register_arm(mnt + "/dev/.binfmt", f"{world.kit}/tools/qemu-aarch64-static")
    _readonly(mnt)
    os.chdir(mnt)
    _check(libc.syscall(PIVOT_ROOT, b".", b"."), "pivot_root")
    _check(libc.umount2(b".", 2), "umount old root")
    os.chdir("/")


def _small(data, mebibytes):
    _mount("tmpfs", data, "tmpfs", NOSUID | NODEV, f"mode=0771,size={mebibytes}m")
    for name in ("local/tmp", "misc/adb"):
        os.makedirs(f"{data}/{name}")


def _devices(mnt):
    _mount("tmpfs", mnt + "/dev", "tmpfs", NOSUID, "mode=0755,size=64m")
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        Path(f"{mnt}/dev/{name}").touch()
        _bind(f"/dev/{name}", f"{mnt}/dev/{name}")
    os.mkdir(mnt + "/dev/pts")
    _mount("devpts", mnt + "/dev/pts", "devpts", NOSUID | NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    os.symlink("pts/ptmx", mnt + "/dev/ptmx")
    os.mkdir(mnt + "/dev/shm", 0o1777)
    os.symlink("/proc/self/fd", mnt + "/dev/fd")


def _register_arm(folder, qemu):
    """Have the kernel run aarch64 programs by qemu in this user namespace (Linux 6.7); it stays mounted."""
    try:
        os.mkdir(folder)
        _mount("none", folder, "binfmt_misc")
        with open(folder + "/register", "wb", buffering=0) as register:
            register.write(BINFMT % qemu.encode())
        _readonly(folder)
    except OSError as error:
        try:
            flags = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").read_text().split("flags:")[1]
        except (OSError, IndexError):
            flags = "\n"
        if "F" not in flags.split("\n")[0]:
            raise OSError(
                "binfmt_misc in a user namespace needs Linux 6.7 or later; on an older one install "
                f"qemu-user-static and binfmt-support ({error})"
            ) from error


def _map_ids(inside, uid, gid):
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{inside} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{inside} {gid} 1")


def _check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _unshare(flags):
    _check(libc.unshare(flags), "unshare")


def _mount(source, target, kind=None, flags=0, data=None):
    texts = [text.encode() if text else None for text in (source, target, kind)]
    options = data.encode() if data else None
    _check(libc.mount(*texts, ctypes.c_ulong(flags), options), f"mount {target}")


def _bind(source, target, readonly=False):
    _mount(source, target, None, BIND | REC)
    if readonly:
        _readonly(target)


def _readonly(target):
    # A user namespace may not drop the flags the mount already has.
    flags = os.statvfs(target).f_flag
    keep = (flags & 0xC0E) | (0x200000 if flags & 4096 else 0)
    _mount(None, target, None, REMOUNT | BIND | RDONLY | keep)
