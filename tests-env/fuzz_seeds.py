#!/usr/bin/env python3
"""Writes seeds for the fuzz targets into a folder, one folder a target, from the recordings that the tests have."""
import json
import pathlib
import shutil
import struct
import sys

out = pathlib.Path(sys.argv[1])
crates = pathlib.Path(__file__).parent.parent / "crates"
wire = crates / "protocol/tests/data/dynamo-wire"


def seed(target, name, data):
    folder = out / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(name)).write_bytes(data)


# The wire: every recording to every target that reads something like it.
for part, targets in {
    "request-plane": ["request_frame", "two_part", "msgpack_bodies"],
    "zmq": ["zmtp", "event_envelope"],
    "nats": ["event_envelope"],
    "discovery/files": ["discovery_record"],
    "etcd": ["discovery_record"],
}.items():
    for number, path in enumerate(sorted(p for p in (wire / part).rglob("*") if p.is_file())):
        for target in targets:
            seed(target, f"{part.replace('/', '-')}-{number}", path.read_bytes())
        if part == "discovery/files":
            try:
                seed("model_card", number, json.dumps(json.loads(path.read_bytes())["card_json"]).encode())
            except (ValueError, KeyError, TypeError):
                pass

# Bodies that the stock frontend was asked with.
for number, line in enumerate((crates / "frontend/tests/data/stock-http.jsonl").read_text().splitlines()):
    pair = json.loads(line)
    target = "chat_body" if pair["path"].endswith("chat/completions") else "completion_body"
    seed(target, number, pair["body"].encode())
chat = {"model": "m", "messages": [{"role": "user", "content": "a<|im_end|>b<think>"}]}
seed("chat_body", "control", json.dumps(chat).encode())
seed("chat_body", "guided", json.dumps(chat | {"guided_json": {"type": "object"}, "n": 2, "seed": 1}).encode())

# Messages of vLLM's event socket, in its recordings: a count of frames, then length and bytes of each.
vllm = crates / "worker/tests/data/vllm"
for recording in sorted(vllm.glob("*.bin")):
    data, at, batches = recording.read_bytes(), 0, []
    while at < len(data):
        (count,) = struct.unpack_from(">I", data, at)
        at, frames = at + 4, []
        for _ in range(count):
            (length,) = struct.unpack_from(">I", data, at)
            frames.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        if len(frames[2]) < 1 << 16:
            batches.append(struct.pack(">H", len(frames[2])) + frames[2])
    for number, batch in enumerate(batches):
        seed("vllm_events", f"{recording.stem}-{number}", batch)
    seed("vllm_events", recording.stem, b"".join(batches[:20]))

# Streams of a vLLM server.
for number, line in enumerate((vllm / "http.jsonl").read_text().splitlines()):
    response = json.loads(line)["response"]
    if isinstance(response, str) and "data:" in response:
        seed("vllm_stream", number, response.encode())

for number, text in enumerate([b"\x01\x00abcd", b"\x0c\x03\x45\x00\x46\x00", bytes(range(200))]):
    seed("raised_answer", number, text)
