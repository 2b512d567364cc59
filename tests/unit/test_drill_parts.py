"""The drill's parts that need no namespace: filters, frames, names, waits, versions, advisories, pcap, records."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.errors import InputError
from offramp.drill import advisories, bpf, frames, names, sbom, sysabi, versions, workload
from offramp.drill.clock import NANO, VirtualClock
from offramp.drill.elf import Program
from offramp.drill.elfscan import scan_binary
from offramp.drill.endpoints import load_endpoints, match_endpoint
from offramp.drill.inventory import FileFacts, Inventory, Package
from offramp.drill.pcap import PcapWriter, read_pcap
from offramp.drill.schedule import load_profiles, make_schedule
from offramp.drill.watcher import parse_address

X86 = sysabi.AUDIT_X86_64
pytestmark = pytest.mark.filterwarnings("error")


def _data(number: int, args: tuple[int, ...] = (), arch: int | None = None) -> bytes:
    padded = (*args, *([0] * (6 - len(args))))
    return struct.pack("iIQ6Q", number, sysabi.NATIVE if arch is None else arch, 0, *padded)


def _act(program: list[bpf.Instruction], name: str, *args: int, arch: int | None = None) -> int:
    table = sysabi.NUMBERS[arch or sysabi.NATIVE]
    return bpf.run_filter(program, _data(table[name], args, arch))


@pytest.mark.skipif(sysabi.NATIVE == 0, reason="no system call table for this machine")
class TestFilter:
    def test_watching_all_tells_connects_and_addressed_sends(self) -> None:
        program = bpf.build_filter("all")
        assert _act(program, "connect", 3) == bpf.NOTIFY
        assert _act(program, "sendto", 3, 0, 5, 0, 0x7FFF00000000, 16) == bpf.NOTIFY
        assert _act(program, "sendto", 3, 0, 5, 0, 0, 0) == bpf.ALLOW
        assert _act(program, "sendmsg", 3) == bpf.NOTIFY

    def test_watching_odd_leaves_ordinary_calls_alone(self) -> None:
        program = bpf.build_filter("odd")
        assert _act(program, "connect", 3) == bpf.ALLOW
        for name in ("setns", "io_uring_setup"):
            assert _act(program, name) == bpf.NOTIFY

    @pytest.mark.parametrize(
        ("family", "kind", "told"),
        [(1, 1, False), (2, 1, False), (2, 2 | 0o4000, False), (10, 2, False), (16, 3, False), (2, 3, True),
         (10, 3, True), (17, 3, True), (40, 1, True), (44, 3, True), (38, 5, True)],
    )  # fmt: skip
    def test_unusual_sockets_are_told(self, family: int, kind: int, told: bool) -> None:
        wanted = bpf.NOTIFY if told else bpf.ALLOW
        assert _act(bpf.build_filter("odd"), "socket", family, kind, 0) == wanted

    def test_waits_are_traced_only_with_a_timeout(self) -> None:
        program = bpf.build_filter("odd", "all")
        assert _act(program, "futex", 0, 0, 0, 0) == bpf.ALLOW
        assert _act(program, "futex", 0, 128, 0, 1 << 40) == bpf.TRACE
        assert _act(program, "futex", 0, 1, 0, 1 << 40) == bpf.ALLOW  # a wake has no timeout
        assert _act(program, "epoll_pwait", 0, 0, 0, 0xFFFFFFFF) == bpf.ALLOW
        assert _act(program, "epoll_pwait", 0, 0, 0, 100) == bpf.TRACE
        assert _act(program, "clock_gettime", 1) == bpf.NOTIFY
        assert _act(program, "clock_gettime", 2) == bpf.ALLOW  # processor time stays

    def test_calendar_only_leaves_monotonic_time_to_the_kernel(self) -> None:
        program = bpf.build_filter("odd", "real")
        assert _act(program, "clock_gettime", 0) == bpf.NOTIFY
        assert _act(program, "clock_gettime", 1) == bpf.ALLOW
        assert _act(program, "nanosleep", 1) == bpf.ALLOW
        assert _act(program, "clock_nanosleep", 0, 1, 1) == bpf.TRACE
        assert _act(program, "clock_nanosleep", 1, 1, 1) == bpf.ALLOW

    @pytest.mark.skipif(sysabi.NATIVE != X86, reason="the 32-bit entry is an x86 matter")
    def test_the_32_bit_entry_is_told_and_x32_refused(self) -> None:
        program = bpf.build_filter("odd")
        assert _act(program, "connect", arch=sysabi.AUDIT_I386) == bpf.NOTIFY
        assert _act(program, "socketcall", arch=sysabi.AUDIT_I386) == bpf.NOTIFY
        assert bpf.run_filter(program, _data(0x40000000 + 42)) == bpf.ENOSYS
        assert bpf.run_filter(program, _data(1, arch=sysabi.AUDIT_ARM)) == bpf.ENOSYS


class TestFrames:
    @given(st.binary(max_size=200), st.integers(1, 65535), st.integers(1, 65535), st.booleans())
    def test_udp_round_trip(self, data: bytes, sport: int, dport: int, six: bool) -> None:
        src, dst = ("fd00::1", "2001:db8::2") if six else ("192.0.2.1", "198.51.100.2")
        body = frames.udp_datagram(src, dst, (sport, dport), data)
        packet = frames.parse_frame(frames.build_frame(b"\2" * 6, b"\4" * 6, src, dst, protocol=17, body=body))
        assert (packet.layer, packet.src, packet.dst, packet.sport, packet.dport) == ("udp", src, dst, sport, dport)
        assert packet.payload == data

    @given(st.binary(max_size=120))
    def test_any_bytes_are_parsed_without_an_error(self, raw: bytes) -> None:
        assert frames.parse_frame(raw).layer

    def test_checksum_of_rfc_1071(self) -> None:
        assert frames.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D

    def test_server_name_of_a_real_client_hello(self) -> None:
        import ssl

        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="stats.planted.test")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        assert frames.server_name(outgoing.read()) == "stats.planted.test"
        assert frames.server_name(b"\x16\x03\x01") == ""

    def test_http_head(self) -> None:
        head = b"POST /report HTTP/1.1\r\nContent-Length: 3\r\nhost: a.test:80\r\n\r\nxyz"
        assert frames.http_head(head) == ("a.test:80", "POST /report HTTP/1.1")
        assert frames.http_head(b"\x16\x03\x01\x00") == ("", "")


class TestNames:
    def test_one_address_a_name_and_back(self) -> None:
        server = names.NameServer(lambda name: name == "licence.test")
        query = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\1a\4test\0" + struct.pack("!HH", 1, 1)
        question = names.parse_question(query)
        assert question is not None
        address = socket.inet_ntoa(server.answer(question)[-4:])
        assert server.name_by_address[address] == "a.test"
        assert server.addresses("a.test") != server.addresses("b.test")
        assert server.answer(question)[:2] == query[:2]

    @pytest.mark.parametrize(
        ("name", "carries"),
        [("huggingface.co", False), ("cdn-lfs-us-1.hf.co", False), ("openaipublic.blob.core.windows.net", False),
         ("mfzwizlenruxgzdtojuw4zzanfzsa5din4.t.test", True), ("a" * 45 + ".x.test", True),
         (".".join(["ab1c" * 5] * 6) + ".x.test", True)],
    )  # fmt: skip
    def test_tunnels(self, name: str, carries: bool) -> None:
        assert names.looks_like_tunnel(name) is carries


class TestClock:
    def test_shift_and_rate_and_back(self) -> None:
        clock = VirtualClock(real_shift_s=86400.0, uptime_shift_s=0.0, rate=1.0, covers_uptime=True)
        assert abs(clock.ahead_ns(0) - 86400 * NANO) < NANO // 100
        assert abs(clock.ahead_ns(1)) < NANO // 100
        clock.set_rate(60.0)
        deadline = clock.deadline_ns(1, clock.read_ns(1) + 600 * NANO)
        import time

        assert abs(deadline - time.monotonic_ns() - 10 * NANO) < NANO // 10
        assert clock.duration_ns(600 * NANO) == 10 * NANO

    def test_processor_clocks_are_not_covered_when_the_kernel_shifts(self) -> None:
        clock = VirtualClock(real_shift_s=0.0, uptime_shift_s=1e6, rate=1.0, covers_uptime=False)
        assert clock.ahead_ns(1) == 0


class TestVersions:
    @pytest.mark.parametrize(
        ("low", "high"),
        [("1.0.dev1", "1.0a1"), ("1.0a1", "1.0"), ("1.0", "1.0.post1"), ("1.9", "1.10"), ("2.0", "1!0.1")],
    )
    def test_python_order(self, low: str, high: str) -> None:
        assert versions.pep440_key(low) < versions.pep440_key(high)  # pyright: ignore[reportOptionalOperand]

    def test_python_order_against_packaging(self) -> None:
        from packaging.version import Version

        texts = ["1.0", "1.0.0", "1.0rc1", "1.0.post2", "1.0.dev3", "0.9", "2.13.0+cpu", "2.13.0", "1.0a2.dev1", "v3.1"]
        ours = sorted(texts, key=lambda t: (versions.pep440_key(t), t))
        theirs = sorted(texts, key=lambda t: (Version(Version(t).public), t))
        assert ours == theirs

    @pytest.mark.parametrize(
        ("low", "high"),
        [("1.0~rc1", "1.0"), ("1.0", "1.0-1"), ("1.0-1", "1.0-1+deb12u1"), ("2.9", "2.10"), ("9.9", "1:0.1")],
    )
    def test_debian_order(self, low: str, high: str) -> None:
        assert versions.debian_key(low) < versions.debian_key(high)

    def test_osv_events(self) -> None:
        events = [{"introduced": "0"}, {"fixed": "2.6.0"}, {"introduced": "2.8.0"}, {"last_affected": "2.9.0"}]
        states = [
            versions.in_events(v, events, versions.pep440_key) for v in ("2.5.1", "2.6.0", "2.8.5", "2.9.0", "2.9.1")
        ]
        assert states == [True, False, True, True, False]

    @pytest.mark.parametrize(
        ("text", "state"),
        [("All driver versions prior to 550.90.07", True), ("vers:generic/>=550|<550.90.07", True),
         ("prior to 550.54.14", False), ("R550 branch", None), ("550.54.14", True), ("All versions", True)],
    )  # fmt: skip
    def test_driver_ranges(self, text: str, state: bool | None) -> None:
        assert versions.in_text_range("550.54.14", text) is state


def _inventory() -> Inventory:
    file = FileFacts(
        path="/usr/lib/libx.so", sha256="ab" * 32, size_bytes=9, owner="dpkg libx 1.2-3", hosts=("x.test",)
    )
    return Inventory(
        kernel="6.8", machine="x86_64", os_name="Test Linux", files=(file,), modules=(), firmware=(),
        packages=(Package(manager="pip", name="Some_Lib", version="1.4.0", mapped=True),
                  Package(manager="dpkg", name="libx", version="1.2-3", mapped=True)),
        tools={}, versions={"/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX 550.54.14  Release"},
        vendors=("nvidia",),
    )  # fmt: skip


class TestAdvisories:
    def test_osv_csaf_and_missing_feeds(self, tmp_path: Path) -> None:
        osv = {"id": "TEST-1", "modified": "2026-05-01T00:00:00Z", "summary": "s", "affected": [
            {"package": {"ecosystem": "PyPI", "name": "some-lib"},
             "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.5"}]}]}]}  # fmt: skip
        csaf = {"document": {"title": "t", "publisher": {"name": "NVIDIA"},
                             "tracking": {"id": "NV-1", "current_release_date": "2026-04-01T00:00:00Z"}},
                "product_tree": {"branches": [{"name": "NVIDIA", "branches": [
                    {"name": "GPU Display Driver for Linux", "branches": [
                        {"name": "All versions prior to 550.90.07", "product": {"product_id": "P1"}}]}]}]},
                "vulnerabilities": [
                    {"cve": "CVE-2026-0001", "product_status": {"known_affected": ["P1"]}}]}  # fmt: skip
        (tmp_path / "a.json").write_text(json.dumps(osv))
        (tmp_path / "b.json").write_text(json.dumps(csaf))
        found, feeds = advisories.match(_inventory(), (tmp_path,))
        assert {(v.id, v.status) for v in found} == {("TEST-1", "affected"), ("CVE-2026-0001", "affected")}
        state = {feed.name: (feed.state, feed.newest) for feed in feeds}
        assert state["pip packages"] == ("checked", "2026-05-01")
        assert state["dpkg packages"][0] == "no feed"
        assert state["nvidia driver"] == ("checked", "2026-04-01")

    def test_no_advisories_is_never_nothing_found(self) -> None:
        found, feeds = advisories.match(_inventory(), ())
        assert not found
        assert {feed.state for feed in feeds} == {"no feed"}

    def test_other_json_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text('{"x": 1}')
        with pytest.raises(InputError, match="neither an OSV nor a CSAF"):
            advisories.match(_inventory(), (tmp_path,))


def test_sbom_is_cyclonedx_1_6_with_hashes() -> None:
    import datetime as dt

    bill = sbom.cyclonedx(_inventory(), name="w", when=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    refs = [component["bom-ref"] for component in bill["components"]]
    assert len(refs) == len(set(refs))
    assert "pkg:pypi/some-lib@1.4.0" in refs
    hashed = next(c for c in bill["components"] if c["name"] == "/usr/lib/libx.so")
    assert hashed["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]


def test_pcap_round_trip_and_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    writer = PcapWriter(path, limit_bytes=200)
    for frame in (b"a" * 60, b"b" * 60, b"c" * 60):
        writer.write(1000.5, frame)
    writer.close()
    assert [frame for _, frame in read_pcap(path)] == [b"a" * 60, b"b" * 60]
    assert writer.left_out == 1
    (tmp_path / "bad").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="neither pcap nor pcapng"):
        list(read_pcap(tmp_path / "bad"))


def test_pcapng_is_read(tmp_path: Path) -> None:
    def block(kind: int, body: bytes) -> bytes:
        size = 12 + len(body)
        return struct.pack("<II", kind, size) + body + struct.pack("<I", size)

    head = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    device = block(1, struct.pack("<HHI", 1, 0, 0))
    packet = block(6, struct.pack("<IIIII", 0, 0, 2_000_000, 20, 20) + b"f" * 20)
    (tmp_path / "x.pcapng").write_bytes(head + device + packet)
    assert list(read_pcap(tmp_path / "x.pcapng")) == [(2.0, b"f" * 20)]


def test_addresses_as_callers_write_them() -> None:
    four = parse_address(struct.pack("=H", 2) + struct.pack("!H", 443) + socket.inet_aton("192.0.2.1") + b"\0" * 8)
    assert four is not None
    assert (four.address, four.port, four.is_local) == ("192.0.2.1", 443, False)
    mapped = parse_address(struct.pack("=H", 10) + b"\0" * 6 + socket.inet_pton(10, "::ffff:127.0.0.1") + b"\0" * 4)
    assert mapped is not None
    assert mapped.is_local
    hidden = parse_address(struct.pack("=H", 1) + b"\0name")
    assert hidden is not None
    assert hidden.address == "@name"
    assert parse_address(b"\2") is None


def test_elf_writer_makes_code_for_both_architectures() -> None:
    for arch, machine in ((sysabi.AUDIT_X86_64, 62), (sysabi.AUDIT_AARCH64, 183)):
        program = Program(arch)
        place = program.data("now", b"\0" * 16)
        program.call("clock_gettime", 0, place)
        program.exit_if_below(place, 1 << 40)
        program.call("socket", 2, 2, 0)
        program.exit_if_negative()
        program.call("sendto", program.keep(0), place, 4, 0, 0, 0)
        image = program.build()
        assert image[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", image, 18)[0] == machine
        size = struct.unpack_from("<Q", image, 64 + 32)[0]
        assert size == len(image)


def test_endpoint_table_is_sourced_and_matches() -> None:
    table = load_endpoints()
    assert all(endpoint.source and endpoint.url and endpoint.switch for endpoint in table.endpoint)
    found = match_endpoint("stats.vllm.ai", context="")
    assert found is not None
    assert found.interval_s == 600
    assert match_endpoint("169.254.169.254", context="python dashboard.py ray").id == "ray-cloud-metadata"  # pyright: ignore[reportOptionalMemberAccess]
    assert match_endpoint("169.254.169.254", context="python x.py").id == "cloud-metadata"  # pyright: ignore[reportOptionalMemberAccess]
    assert match_endpoint("unknown.test", context="") is None


def test_embedded_hosts_and_symbols(tmp_path: Path) -> None:
    blob = tmp_path / "lib"
    blob.write_bytes(b"\0https://updates.vendor.test/x\0http://www.w3.org/2000\0")
    assert scan_binary(blob).hosts == ("updates.vendor.test",)
    (tmp_path / "empty").touch()
    assert scan_binary(tmp_path / "empty").hosts == ()


class TestWorkload:
    def test_unknown_key_gets_a_near_miss(self, tmp_path: Path) -> None:
        path = tmp_path / "w.toml"
        path.write_text('start = ["true"]\n[ready]\nhtp = "x"\n')
        with pytest.raises(InputError, match=r'unknown key "htp".*http'):
            workload.load(path)

    def test_requests_must_stay_on_loopback(self, tmp_path: Path) -> None:
        path = tmp_path / "w.toml"
        path.write_text('start = ["true"]\n[ask]\nurl = "http://192.0.2.1/"\n')
        with pytest.raises(InputError, match="not on loopback"):
            workload.load(path)

    def test_missing_program(self) -> None:
        with pytest.raises(InputError, match="no program"):
            workload.check(workload.from_command(("/no/such/program",)), where="command")

    def test_schedules_are_seeded_and_complete(self) -> None:
        plain = workload.from_command(("true",))
        settings = load_profiles()["quick"]
        first, again = make_schedule(plain, settings, 1), make_schedule(plain, settings, 1)
        assert first == again
        assert first != make_schedule(plain, settings, 2)
        assert {run.condition.id for run in first} == set(settings.conditions)
        with pytest.raises(InputError, match="unknown condition"):
            make_schedule(workload.Workload(start=("true",), conditions=("droop",)), settings, 1)
