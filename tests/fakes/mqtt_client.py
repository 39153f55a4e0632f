"""A raw MQTT 5 client for tests: sends and receives packets of the `mqtt5` codec, nothing by itself."""

import asyncio
import ssl
from typing import TypeVar

import mqtt5

P = TypeVar("P", bound=mqtt5.Packet)
QOS1 = mqtt5.QoS.AT_LEAST_ONCE


class RawClient:
    """`await RawClient.open(port)`, then `send` and `expect`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._received = b""

    @classmethod
    async def open(cls, port: int, tls: ssl.SSLContext | None = None) -> "RawClient":
        server_name = "localhost" if tls else None
        return cls(
            *await asyncio.open_connection(
                "127.0.0.1", port, ssl=tls, server_hostname=server_name, limit=1 << 20
            )
        )

    @classmethod
    async def connected(
        cls, port: int, client_id: str, *, tls: ssl.SSLContext | None = None, **options: object
    ) -> "RawClient":
        """Open and CONNECT; the CONNACK must say success and is kept as `connack`."""
        client = await cls.open(port, tls)
        client.send(mqtt5.ConnectPacket(client_id, **options))  # type: ignore[arg-type]
        client.connack = await client.expect(mqtt5.ConnAckPacket)
        assert client.connack.reason_code == mqtt5.ConnAckReasonCode.SUCCESS
        return client

    connack: mqtt5.ConnAckPacket

    def send(self, *packets: mqtt5.Packet) -> None:
        self.writer.write(b"".join(packet.write() for packet in packets))

    async def receive(self) -> mqtt5.Packet | None:
        """The next packet; None when the broker closed the connection."""
        while True:
            try:
                packet, used = mqtt5.read(memoryview(self._received))
            except IndexError:
                more = await asyncio.wait_for(self.reader.read(65_536), 30)
                if not more:
                    return None
                self._received += more
            else:
                self._received = self._received[used:]
                return packet

    async def expect(self, kind: type[P]) -> P:
        packet = await self.receive()
        assert isinstance(packet, kind), f"wanted {kind.__name__}, got {packet}"
        return packet

    async def silent(self) -> None:
        """Nothing is on its way to us: a PINGREQ is answered before anything else comes."""
        self.send(mqtt5.PingReqPacket())
        await self.expect(mqtt5.PingRespPacket)

    async def subscribe(self, *filters: str | mqtt5.TopicFilter) -> list[int]:
        full = [
            mqtt5.TopicFilter(f, max_qos=QOS1, retain_as_published=False)
            if isinstance(f, str)
            else f
            for f in filters
        ]
        self.send(mqtt5.SubscribePacket(1, full))
        return [int(code) for code in (await self.expect(mqtt5.SubAckPacket)).reason_codes]

    async def publish(
        self, topic: str, payload: bytes, packet_id: int = 1, **options: object
    ) -> None:
        """Publish at QoS 1 and wait for the PUBACK."""
        self.send(publish(topic, payload, packet_id, **options))
        assert (await self.expect(mqtt5.PubAckPacket)).packet_id == packet_id

    async def close(self) -> None:
        """Cut the connection without DISCONNECT."""
        self.writer.transport.abort()


def publish(
    topic: str, payload: bytes, packet_id: int | None = 1, **options: object
) -> mqtt5.PublishPacket:
    """A PUBLISH at QoS 1, or at QoS 0 with `packet_id=None`."""
    qos = mqtt5.QoS.AT_MOST_ONCE if packet_id is None else QOS1
    return mqtt5.PublishPacket(topic, payload, qos=qos, packet_id=packet_id, **options)  # type: ignore[arg-type]
