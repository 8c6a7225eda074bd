#!/usr/bin/env python3
"""A NATS client of a few lines, for tests that ask a server what it kept.

    nats.py HOST:PORT USER:PASSWORD echo SUBJECT TEXT               what a subscriber of SUBJECT hears
    nats.py HOST:PORT USER:PASSWORD keep SUBJECT TEXT [REPLICAS]    into a stream on disk, made where it is not there
    nats.py HOST:PORT USER:PASSWORD last SUBJECT                    the newest message of the stream

`-` for USER:PASSWORD sends none. What the server refuses is the error. Source: docs.nats.io, "Client Protocol", and
"NATS API Reference", JetStream.
"""
import base64
import json
import socket
import sys

STREAM = "TEST"
# Longer than a stream's election of a leader takes.
ANSWER_SECONDS_MAX = 20


class Client:
    def __init__(self, address: str, user: str) -> None:
        host, port = address.rsplit(":", 1)
        self.stream = socket.create_connection((host, int(port)), ANSWER_SECONDS_MAX).makefile("rwb", buffering=0)
        self.line("INFO")
        options = {"verbose": False, "pedantic": False, "lang": "test", "version": "1"}
        if user != "-":
            options["user"], options["pass"] = user.split(":", 1)
        self.send(f"CONNECT {json.dumps(options)}\r\nPING\r\n")
        self.line("PONG")

    def send(self, text: str) -> None:
        self.stream.write(text.encode())

    def line(self, verb: str) -> list[str]:
        """The next line that begins with VERB; answers the server's pings on the way."""
        while line := self.stream.readline().decode():
            if line.startswith("PING"):
                self.send("PONG\r\n")
            elif line.startswith("-ERR"):
                sys.exit(f"the server refuses: {line[4:].strip()}")
            elif line.startswith(verb):
                return line.split()
        sys.exit("the server closed the connection")

    def publish(self, subject: str, text: str, reply: str = "") -> None:
        self.send(f"PUB {subject} {reply} {len(text.encode())}\r\n{text}\r\n")

    def subscribe(self, subject: str) -> None:
        self.send(f"SUB {subject} 1\r\n")

    def message(self) -> str:
        size = int(self.line("MSG")[-1])
        data = b""
        while len(data) < size + 2:
            data += self.stream.read(size + 2 - len(data))
        return data[:size].decode()

    def ask(self, subject: str, text: str) -> dict:
        """A request of JetStream; its answer is JSON."""
        self.send("SUB _INBOX.test 2\r\nUNSUB 2 1\r\n")
        self.publish(subject, text, "_INBOX.test")
        answer = json.loads(self.message())
        if error := answer.get("error"):
            sys.exit(f"{subject}: {error['description']}")
        return answer


def main(address: str, user: str, verb: str, subject: str, text: str = "", replicas: str = "1") -> None:
    client = Client(address, user)
    if verb == "echo":
        client.subscribe(subject)
        client.publish(subject, text)
        print(client.message())
    elif verb == "keep":
        stream = {"name": STREAM, "subjects": [subject], "storage": "file", "num_replicas": int(replicas)}
        client.ask(f"$JS.API.STREAM.CREATE.{STREAM}", json.dumps(stream))
        print(f"kept as number {client.ask(subject, text)['seq']}")
    elif verb == "last":
        answer = client.ask(f"$JS.API.STREAM.MSG.GET.{STREAM}", json.dumps({"last_by_subj": subject}))
        print(base64.b64decode(answer["message"]["data"]).decode())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
