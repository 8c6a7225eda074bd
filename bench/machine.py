"""Processes under measurement: each is started here, on loopback, and stopped by its own handle."""

import contextlib
import http.client
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CORES = os.cpu_count() or 1
# Threads of the engine. With one, its CPU time holds on a busy machine too: nothing waits for another thread.
THREADS = int(os.environ.get("BENCH_THREADS", str(CORES)))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
READY_MAX_S = 120
STOP_MAX_S = 15
LOAD_MAX_S = 300


def needed(variable):
    """A value that run.sh sets."""
    value = os.environ.get(variable)
    if not value:
        raise SystemExit(f"bench: {variable} is not set; call bench/run.sh")
    return value


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Machine(contextlib.AbstractContextManager):
    """A folder of its own, and the processes that share its discovery."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="busbar-bench-")
        self.path = pathlib.Path(self.folder.name)
        self.running = []
        # Both sides at the same log level: stock Dynamo at `info` writes several lines a request.
        self.env = {**os.environ, "DYN_FILE_KV": str(self.path / "discovery"), "DYN_DISCOVERY_BACKEND": "file",
                    "DYN_LOG": "warn", "HF_HUB_OFFLINE": "1", "BUSBAR_STATE_DIR": str(self.path / "state")}
        for host in ("DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST"):
            self.env[host] = "127.0.0.1"
        (self.path / "discovery").mkdir()

    def __exit__(self, *_):
        for process in reversed(self.running):
            stop(process)
        self.folder.cleanup()

    def start(self, name, *command):
        """Starts a process whose output goes to NAME.log of this machine."""
        log = open(self.path / f"{name}.log", "ab")
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                   env=self.env, cwd=self.path)
        log.close()
        self.running.append(process)
        return process

    def busbar(self, name, *arguments):
        return self.start(name, busbar(), *arguments)

    def stock(self, name, module, *arguments):
        return self.start(name, needed("BENCH_DYNAMO_PYTHON"), "-m", module, *arguments)

    def stock_mockers(self, workers=4, speedup="1e6"):
        """Stock mocker workers that answer as fast as they can (a speed-up of 0 would be real time in 1.6.1)."""
        return self.stock("mockers", "dynamo.mocker", "--model-path", needed("BENCH_HF_FOLDER"), "--model-name", "tiny",
                          "--num-workers", workers, "--speedup-ratio", speedup, "--block-size", "16",
                          "--discovery-backend", "file")

    def our_frontend(self, port):
        return self.busbar("our-frontend", "frontend", "--router-mode", "kv", "--http-port", port)

    def stock_frontend(self, port):
        return self.stock("stock-frontend", "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", port,
                          "--router-mode", "kv", "--discovery-backend", "file")

    def run_busbar(self, *arguments):
        """Runs a command of ours to its end, and gives its JSON."""
        done = subprocess.run([busbar(), *map(str, arguments)], env=self.env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"bench: busbar {arguments} failed: {done.stderr[-800:]}")
        return json.loads(done.stdout) if "json" in arguments else done.stdout

    def wait_for_answer(self, port, model, process=None):
        """Waits for the first answer to a chat of one token."""
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
        until = time.monotonic() + READY_MAX_S
        while time.monotonic() < until:
            if process and process.poll() is not None:
                break
            if post(port, body) == 200:
                return
            time.sleep(0.01)
        tail = "\n".join(f"{log.name}: {log.read_text()[-800:]}" for log in self.path.glob("*.log"))
        raise SystemExit(f"bench: port {port} does not answer for {model}\n{tail}")


def busbar():
    return str((ROOT / needed("BUSBAR")).resolve())


def post(port, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except OSError:
        return 0
    finally:
        connection.close()


def stop(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_MAX_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def load_program():
    return str((ROOT / needed("BENCH_LOAD")).resolve())


def load(mode, port, model, **options):
    """Runs our client, and gives its figures."""
    command = [load_program(), mode, "--address", f"127.0.0.1:{port}", "--model", model]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_MAX_S, check=False)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(command)}: {done.stderr}")
    figures = json.loads(done.stdout)
    if figures.get("errors"):
        raise SystemExit(f"bench: {figures['errors']} errors in {' '.join(command)}")
    return figures


def rss_mb(pid):
    """Resident memory, MB (10⁶ bytes), and the anonymous part of it: what is not mapped from files."""
    fields = {}
    for line in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        fields[name] = value
    return tuple(int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon"))


def cpu_seconds(pid):
    """User and system time so far, in steps of 10 ms."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return sum(int(ticks) for ticks in stat.rpartition(")")[2].split()[11:13]) / os.sysconf("SC_CLK_TCK")
