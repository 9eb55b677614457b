"""The servers under load: started, pinned to one core, ended with the run. Standard library only."""
import collections
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
RELEASE = ROOT / "target/release"
START_MAX = 60.0
TICK = os.sysconf("SC_CLK_TCK")


class Server:
    """One server: its port, the processes whose time counts, and the one that does the handshakes."""

    def __init__(self, name, command, core, **options):
        self.name = name
        self.log = options.pop("log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(core), *map(str, command)], stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=log, start_new_session=True, **options)
        self.port = 0
        self.pid = self.process.pid
        self.path = "/"

    @property
    def target(self):
        return f"127.0.0.1:{self.port}"

    def pids(self):
        """This process and all below it."""
        found, left = [], [self.process.pid]
        while left:
            pid = left.pop()
            found.append(pid)
            left += children(pid)
        return found

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.process.stdout.close()


def children(pid):
    try:
        return [int(c) for c in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def wait_for(what, question):
    deadline = time.monotonic() + START_MAX
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(0.05)
    raise SystemExit(f"{what} did not come within {START_MAX:.0f} s")


def free_port():
    import socket
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def moonshard(place, core, shards=1):
    """The host with one shard; every limit, deadline and counter as it is by default."""
    place.mkdir(mode=0o700)
    (place / "run").mkdir(mode=0o700)
    config = place / "moonshard.toml"
    config.write_text(
        f'mdns = false\nstate_dir = "{place}/state"\nruntime_dir = "{place}/run"\n'
        f"[cores]\ncontrol = {[core] * shards}\n[metrics]\nport = 0\n"
        "[ports]\nhttps = 0\nhttp = 0\nrtsp = 0\nvideo = 0\ncontrol = 0\naudio = 0\n")
    program = [RELEASE / "moonshard", "--config", config]
    server = Server("moonshard", [*program, "serve"], core, log=place / "log")
    server.admin = [str(part) for part in program]
    for line in server.process.stdout:
        if b"ready in" in line:
            break
    else:
        raise SystemExit(f"moonshard did not start: {(place / 'log').read_text()}")
    # Its further lines must not fill the pipe.
    import threading
    threading.Thread(target=server.process.stdout.read, daemon=True).start()
    status = json.loads(subprocess.check_output([*server.admin, "status", "--json"]))
    server.port = status["ports"]["https"]
    server.metrics = status["metrics"]
    is_front = lambda pid: b"front" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    server.pid = wait_for("the front", lambda: next(
        filter(is_front, children(server.process.pid)), None))
    server.path = "/serverinfo"
    server.state = place / "state"
    return server


def answer_times(server):
    """The host's own histogram, accept to answer: [(below this many seconds, count)]."""
    text = urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=5).read().decode()
    found = collections.Counter()
    for labels, count in re.findall(r"^moonshard_answer_seconds_bucket{(.*)} (\d+)", text, re.M):
        found[float(re.search(r'le="([^"]+)"', labels)[1].replace("+Inf", "inf"))] += int(count)
    if not found:
        raise SystemExit("the host's metrics have no answer times")
    return sorted(found.items())


def nginx(place, core, state, body):
    """Debian's nginx with one worker, the host's certificate, and session tickets."""
    place.mkdir(mode=0o700)
    port = free_port()
    config = place / "nginx.conf"
    config.write_text(f"""
daemon off; worker_processes 1; pid {place}/pid; error_log {place}/error.log; user root;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_timeout 5s; client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fastcgi; uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl backlog=4096;
    ssl_certificate {state}/cert.pem; ssl_certificate_key {state}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3; ssl_ecdh_curve X25519:prime256v1;
    ssl_verify_client optional_no_ca; ssl_session_tickets on; client_header_timeout 5s;
    location / {{ default_type text/plain; return 200 "{'x' * body}"; }}
  }}
}}
""")
    if os.getuid() != 0:
        config.write_text(config.read_text().replace(" user root;", ""))
    server = Server("nginx", [shutil.which("nginx"), "-c", config], core, log=place / "log")
    server.port = port
    server.pid = wait_for("nginx's worker", lambda: next(iter(children(server.process.pid)), None))
    return server


def shaped(name, core, state, body, log):
    """One of our own small servers: `bare` or `wolf`."""
    server = Server(name, [RELEASE / "moonshard-perf", name, state, body], core, log=log)
    line = server.process.stdout.readline()
    if not line:
        raise SystemExit(f"{name} did not start: {log.read_text()}")
    server.port = int(line)
    return server


def plain(core, flights):
    """No TLS: as many bytes in as many turns."""
    server = Server("plain", [RELEASE / "moonshard-perf", "plain", flights], core, log=os.devnull)
    server.port = int(server.process.stdout.readline())
    return server


def under_load(server, seconds):
    """A generator of full handshakes on the last core."""
    core = max(os.sched_getaffinity(0))
    return subprocess.Popen(
        ["taskset", "-c", str(core), RELEASE / "moonshard-loadtest", "handshake", "--target", server.target,
         "--path", server.path, "--concurrency", "16", "--warmup", "0", "--seconds", str(seconds)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def cpu_seconds(pids):
    """User and system time of the processes so far."""
    used = 0
    for pid in pids:
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        used += int(fields[11]) + int(fields[12])
    return used / TICK


def rss_bytes(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024
