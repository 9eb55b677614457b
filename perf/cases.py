"""The cases of perf/run: what is done to a server, and the numbers that come of it."""
import collections
import contextlib
import json
import os
import socket
import ssl
import subprocess
import threading
import time

import servers

Setting = collections.namedtuple("Setting", "server load_core core seconds found")
Case = collections.namedtuple("Case", "servers run once", defaults=[False])
EVERY = ("moonshard", "nginx", "wolf", "bare")
STALLED = 500


def answer_bytes(server):
    """The size of an answer's body, so that the bare loop sends as much."""
    with open_tls(server.port) as stream:
        stream.sendall(f"GET {server.path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: stream.recv(65536), b""))
    return len(answer.split(b"\r\n\r\n", 1)[1])


def open_tls(port, timeout=30):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    bare = socket.create_connection(("127.0.0.1", port), timeout)
    bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    context.set_ciphers("DEFAULT@SECLEVEL=1")
    return context.wrap_socket(bare, suppress_ragged_eofs=True)


def loadtest(setting, *arguments):
    command = ["taskset", "-c", setting.load_core, servers.RELEASE / "moonshard-loadtest", *arguments,
               "--target", setting.server.target, "--path", setting.server.path, "--json"]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def handshakes(*how):
    def run(setting):
        step = loadtest(setting, "handshake", "--server-pid", setting.server.pid, "--seconds",
                        setting.seconds, "--concurrency", 16, *how)["steps"][0]
        return {"per_core_second": step["per_server_cpu_second"], "rate": step["rate"],
                "errors": step["errors"], "resumed": step["resumed"]}
    return run


def floor(setting):
    """The least that rustls and the kernel take: TLS in memory, and as many bytes over sockets alone."""
    report = subprocess.run(["taskset", "-c", str(setting.core), "cargo", "bench", "--locked", "--bench", "tls", "--",
                             "--json"], cwd=servers.ROOT, stdout=subprocess.PIPE, check=True)
    found = {}
    for case, cost in json.loads(report.stdout.splitlines()[-1]).items():
        server = servers.plain(setting.core, cost["flights"])
        try:
            before = servers.cpu_seconds([server.pid])
            done = subprocess.run(["taskset", "-c", str(setting.load_core), servers.RELEASE / "moonshard-perf", "dial",
                                   str(server.port), cost["flights"], str(setting.seconds)],
                                  stdout=subprocess.PIPE, check=True)
            used = servers.cpu_seconds([server.pid]) - before
        finally:
            server.stop()
        sockets = used * 1e6 / int(done.stdout)
        found |= {f"{case}_memory_us": cost["server_us"], f"{case}_sockets_us": round(sockets, 2),
                  case: round(1e6 / (cost["server_us"] + sockets), 1)}
    return found


def times(step):
    request = step["latency_us"]["request"]
    return {"p50_us": request["p50"], "p95_us": request["p95"], "p99_us": request["p99"],
            "errors": step["errors"]}


def half_load(setting):
    """Open loop at half of what this server did in the case of full handshakes."""
    full = setting.found.get("full13", {}).get(setting.server.name)
    rate = full["median"]["rate"] / 2 if full else 500
    own = setting.server.name == "moonshard"
    before = servers.answer_times(setting.server) if own else []
    step = loadtest(setting, "handshake", "--rate", f"{rate:.0f}", "--seconds", setting.seconds)["steps"][0]
    found = times(step) | {"offered": rate}
    if own:
        time.sleep(1)
        after = servers.answer_times(setting.server)
        found["server_p95_below_us"] = bucket(before, after, 0.95)
        found["server_p50_below_us"] = bucket(before, after, 0.5)
    return found


def bucket(before, after, quantile):
    """The bound of the bucket that holds a quantile of what came between two readings."""
    counts = [(bound, now - dict(before).get(bound, 0)) for bound, now in after]
    total = counts[-1][1] if counts else 0
    for bound, below in counts:
        if total and below >= quantile * total:
            return round(bound * 1e6)
    return None


def flood(setting):
    """Honest clients beside connections that say nothing."""
    report = loadtest(setting, "attack", "--kind", "silent", "--connections", STALLED, "--honest-rate", 200,
                      "--seconds", setting.seconds, "--beside", 1)
    return times(report["honest"]["during"])


@contextlib.contextmanager
def encoder(core):
    command = ["taskset", "-c", str(core), "nice", "-n", "10", "gst-launch-1.0", "-q", "videotestsrc",
               "pattern=snow", "!", "video/x-raw,width=1280,height=720,framerate=60/1", "!", "x264enc",
               "tune=zerolatency", "speed-preset=superfast", "threads=1", "!", "fakesink"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def beside_encoder(setting):
    """A software encoder takes a core that is not the server's: the generator's, if there are but two."""
    others = sorted(os.sched_getaffinity(0) - {setting.core, setting.load_core})
    with encoder(others[0] if others else setting.load_core):
        time.sleep(1)
        report = loadtest(setting, "handshake", "--rate", 200, "--seconds", setting.seconds)
    return times(report["steps"][0])


def client_hello():
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls = context.wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def memory(setting):
    """What each handshake that stops after its ClientHello adds to the server's memory: for the first wave,
    and for a second one, which finds the allocator's pools filled."""
    hello = client_hello()
    grown = []
    for _ in range(2):
        before = servers.rss_bytes(setting.server.pid)
        with contextlib.ExitStack() as stack:
            for _ in range(STALLED):
                one = stack.enter_context(socket.create_connection(("127.0.0.1", setting.server.port)))
                one.sendall(hello)
            time.sleep(2)
            grown.append((servers.rss_bytes(setting.server.pid) - before) / STALLED)
        time.sleep(2)
    return {"bytes_per_stalled": round(grown[0]), "bytes_per_stalled_again": round(grown[1])}


def idle(setting):
    """Processor time and memory of all its processes while nobody comes."""
    pids, length = setting.server.pids(), min(10, max(3, setting.seconds))
    time.sleep(1)
    before = servers.cpu_seconds(pids)
    time.sleep(length)
    used = servers.cpu_seconds(pids) - before
    return {"cpu_percent": round(100 * used / length, 2),
            "rss_mb": round(sum(map(servers.rss_bytes, pids)) / 1e6, 1)}


def outage(setting):
    """Honest clients at 50 a second while one client's request is stuck: /cancel in Wolf's shape, a
    handler that blocks; a pairing that waits for its PIN in the host. All open a connection of their own."""
    def stuck():
        with contextlib.suppress(OSError), open_tls(setting.server.port) as stream:
            stream.sendall(b"GET /cancel HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            stream.recv(1000)

    waits = setting.server.name == "moonshard"
    with waiting_pairing(setting.server) if waits else contextlib.nullcontext():
        thread = threading.Thread(target=stuck)
        thread.start()
        time.sleep(0.2)
        step = loadtest(setting, "handshake", "--rate", 50, "--seconds", max(4, min(6, setting.seconds)),
                        "--warmup", 0)["steps"][0]
        thread.join()
    return times(step) | {"max_us": step["latency_us"]["request"]["max"]}


@contextlib.contextmanager
def waiting_pairing(server):
    """A request that the host cannot answer: it waits for somebody to enter a PIN."""
    certificate = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "/dev/null", "-subj",
         "/CN=NVIDIA GameStream Client", "-days", "30"], capture_output=True, check=True).stdout
    status = json.loads(subprocess.check_output([*server.admin, "status", "--json"]))
    query = ("uniqueid=0123456789ABCDEF&devicename=perf&updateState=1&phrase=getservercert"
             f"&salt={'5a' * 16}&clientcert={certificate.hex()}")
    with socket.create_connection(("127.0.0.1", status["ports"]["http"]), 10) as stream:
        stream.sendall(f"GET /pair?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        stream.settimeout(1)
        try:
            answer = stream.recv(200)
            raise SystemExit(f"the pairing did not wait: {answer!r}")
        except TimeoutError:
            pass
        yield


ALL = {
    # Before anything fills the allocators' pools.
    "memory": Case(EVERY, memory, once=True),
    "full13": Case(EVERY, handshakes("--tls", "1.3")),
    "floor": Case(("bare",), floor),
    "full12": Case(EVERY, handshakes("--tls", "1.2")),
    "resumed13": Case(EVERY, handshakes("--tls", "1.3", "--resume")),
    "half": Case(EVERY, half_load),
    "flood": Case(EVERY[:3], flood),
    "encoder": Case(EVERY[:3], beside_encoder),
    "idle": Case(EVERY[:3], idle, once=True),
    "outage": Case(("moonshard", "wolf"), outage),
}


def line(numbers):
    return ", ".join(f"{key} {value:.0f}" if isinstance(value, float) else f"{key} {value}"
                     for key, value in numbers.items())
