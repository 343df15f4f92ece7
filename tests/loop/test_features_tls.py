"""One test for each feature of TLS that a loop may have: the contexts are the program's own, whatever is set in them."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from pathlib import Path

import pytest


class Identity:
    """A key and a certificate that vouches for itself."""

    def __init__(self, folder: Path, name: str) -> None:
        self.key, self.certificate = folder / f"{name}.key", folder / f"{name}.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        command += ["-addext", f"subjectAltName=DNS:{name}", "-keyout", str(self.key), "-out", str(self.certificate)]
        subprocess.run(command, check=True, capture_output=True)

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def trusted(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.load_verify_locations(self.certificate)
        return context


@pytest.fixture(scope="session")
def localhost(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity(tmp_path_factory.mktemp("tls"), "localhost")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity(tmp_path_factory.mktemp("tls"), "other")


async def echo(reader, writer):
    try:
        while data := await reader.read(100_000):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, ssl.SSLError):
        pass
    writer.close()


async def end(server, *writers):
    for each in writers:
        each.close()
        await each.wait_closed()
    server.close()
    await server.wait_closed()


async def trip(reader, writer, data=b"hello"):
    writer.write(data)
    assert await reader.readexactly(len(data)) == data


def test_tls_server_and_client(run, localhost):
    async def main():
        server = await asyncio.start_server(
            echo, "127.0.0.1", 0, ssl=localhost.server(), ssl_handshake_timeout=30, ssl_shutdown_timeout=10
        )
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(),
            ssl=localhost.trusted(),
            server_hostname="localhost",
            ssl_handshake_timeout=30,
            ssl_shutdown_timeout=10,
        )
        for size in (1, 16_384, 300_000):
            await trip(reader, writer, b"x" * size)
        assert isinstance(writer.transport, asyncio.Transport)
        await end(server, writer)

    run(main())


def test_tls_over_unix_sockets(run, localhost, tmp_path):
    async def main():
        server = await asyncio.start_unix_server(echo, tmp_path / "s", ssl=localhost.server())
        reader, writer = await asyncio.open_unix_connection(
            tmp_path / "s", ssl=localhost.trusted(), server_hostname="localhost"
        )
        await trip(reader, writer)
        await end(server, writer)

    run(main())


def test_tls_of_an_accepted_socket(run, localhost):
    async def main():
        loop, (one, two) = asyncio.get_running_loop(), socket.socketpair()
        reader = asyncio.StreamReader()
        serving = asyncio.ensure_future(
            loop.connect_accepted_socket(
                lambda: asyncio.StreamReaderProtocol(reader, echo), one, ssl=localhost.server()
            )
        )
        client, writer = await asyncio.open_connection(sock=two, ssl=localhost.trusted(), server_hostname="localhost")
        transport, _ = await serving
        await trip(client, writer)
        writer.close()
        await writer.wait_closed()
        transport.close()

    run(main())


def test_tls_buffered_protocol(run, localhost):
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self):
            self.memory, self.data, self.arrived = bytearray(10), b"", asyncio.Event()
            self.lost = asyncio.get_running_loop().create_future()

        def get_buffer(self, sizehint):
            return self.memory

        def buffer_updated(self, nbytes):
            self.data += self.memory[:nbytes]
            self.arrived.set()

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=localhost.server())
        transport, client = await asyncio.get_running_loop().create_connection(
            Buffered, *server.sockets[0].getsockname(), ssl=localhost.trusted(), server_hostname="localhost"
        )
        data = bytes(range(256))
        transport.write(data)
        while len(client.data) < len(data):
            client.arrived.clear()
            await client.arrived.wait()
        assert client.data == data
        transport.close()
        assert await client.lost is None
        await end(server)

    run(main())


def test_start_tls(run, localhost):
    async def upgrade(reader, writer):
        assert await reader.readline() == b"upgrade\n"
        writer.write(b"go\n")
        await writer.drain()
        await writer.start_tls(localhost.server(), ssl_handshake_timeout=30)
        await echo(reader, writer)

    async def main():
        server = await asyncio.start_server(upgrade, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"upgrade\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(localhost.trusted(), server_hostname="localhost", ssl_handshake_timeout=30)
        await trip(reader, writer)
        await end(server, writer)

    run(main())


def test_tls_in_tls(run, localhost, other):
    """A connection through a proxy that is spoken to by TLS itself."""

    async def upgrade(reader, writer):
        assert await reader.readline() == b"upgrade\n"
        writer.write(b"go\n")
        await writer.drain()
        await writer.start_tls(other.server())
        await echo(reader, writer)

    async def main():
        server = await asyncio.start_server(upgrade, "127.0.0.1", 0, ssl=localhost.server())
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=localhost.trusted(), server_hostname="localhost"
        )
        writer.write(b"upgrade\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(other.trusted(), server_hostname="other")
        for size in (10, 100_000):
            await trip(reader, writer, b"x" * size)
        await end(server, writer)

    run(main())


def test_tls_ssl_object_and_certificate(run, localhost):
    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=localhost.server())
        context = localhost.trusted()
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=context, server_hostname="localhost"
        )
        found = writer.get_extra_info("ssl_object")
        assert isinstance(found, ssl.SSLObject)
        assert found.context is context
        assert writer.get_extra_info("sslcontext") is context
        assert ("DNS", "localhost") in writer.get_extra_info("peercert")["subjectAltName"]
        assert writer.get_extra_info("cipher") == found.cipher()
        assert writer.get_extra_info("socket").fileno() > 0
        assert writer.get_extra_info("peername") == server.sockets[0].getsockname()
        await trip(reader, writer)
        await end(server, writer)

    run(main())


def test_tls_sni_callback(run, localhost, other):
    """The server shows another certificate to whoever asks for another name."""
    asked = []

    def choose(found, name, context):
        asked.append(name)
        if name == "other":
            found.context = others

    ours, others = localhost.server(), other.server()
    ours.sni_callback = choose

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=ours)
        for name, identity in (("localhost", localhost), ("other", other)):
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=identity.trusted(), server_hostname=name
            )
            await trip(reader, writer)
            writer.close()
            await writer.wait_closed()
        await end(server)

    run(main())
    assert asked == ["localhost", "other"]


def test_tls_client_certificates(run, localhost, other):
    ours = localhost.server()
    ours.verify_mode = ssl.CERT_REQUIRED
    ours.load_verify_locations(other.certificate)
    seen = []

    async def names(reader, writer):
        seen.append(writer.get_extra_info("peercert")["subjectAltName"])
        await echo(reader, writer)

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        server = await asyncio.start_server(names, "127.0.0.1", 0, ssl=ours)
        address = server.sockets[0].getsockname()
        known = localhost.trusted()
        known.load_cert_chain(other.certificate, other.key)
        reader, writer = await asyncio.open_connection(*address, ssl=known, server_hostname="localhost")
        await trip(reader, writer)
        writer.close()
        await writer.wait_closed()
        # Without one the handshake fails, or in TLS 1.3 what comes after it.
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            reader, writer = await asyncio.open_connection(
                *address, ssl=localhost.trusted(), server_hostname="localhost"
            )
            try:
                await trip(reader, writer)
            finally:
                writer.transport.abort()
        # Somebody who does not know the server leaves with the reason.
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(*address, ssl=other.trusted(), server_hostname="localhost")
        with pytest.raises(ssl.SSLCertVerificationError, match="another"):
            await asyncio.open_connection(*address, ssl=localhost.trusted(), server_hostname="another")
        await end(server)

    run(main())
    assert seen == [(("DNS", "other"),)]
