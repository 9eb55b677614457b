#!/bin/bash
# Starts a host of its own on free ports, runs a command, and ends the host: with-host.sh DIR COMMAND...
# DIR gets its configuration, state and log. The command finds the host in HTTP and HTTPS (ADDRESS:PORT)
# and can ask it by `moonshard` through the environment.
set -euo pipefail
directory=$(realpath -m "$1")
shift
: "${MOONSHARD:?the moonshard program}"
# Paths of sockets are short, and the host's own must be free of an earlier one.
runtime=$(mktemp -d /tmp/moonshard-loadtest.XXXXXX)
mkdir -p "$directory"
cat >"$directory/moonshard.toml" <<'TOML'
host_name = "loadtest"
mdns = false
[ports]
https = 0
http = 0
rtsp = 0
video = 0
control = 0
audio = 0
[metrics]
enabled = false
TOML
export XDG_RUNTIME_DIR=$runtime XDG_STATE_HOME=$directory/state XDG_CONFIG_HOME=$directory/config
"$MOONSHARD" --config "$directory/moonshard.toml" serve </dev/null >"$directory/host.log" 2>&1 &
host=$!
end() {
  kill "$host" 2>/dev/null || true
  wait "$host" || true
  rm -rf "$runtime"
}
trap end EXIT
status=
for _ in $(seq 600); do
  status=$("$MOONSHARD" status --json 2>/dev/null || true)
  [[ $status == *'"https":'* ]] && break
  if ! kill -0 "$host" 2>/dev/null; then
    echo "The host does not start:" >&2
    tail -n 20 "$directory/host.log" >&2
    exit 1
  fi
  sleep 0.1
done
port() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" <<<"$status"; }
HTTP=127.0.0.1:$(port http) HTTPS=127.0.0.1:$(port https) HOST_PID=$host
export HTTP HTTPS HOST_PID
echo "The host serves on $HTTP; its log is $directory/host.log"
"$@"
