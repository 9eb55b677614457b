#!/bin/bash
# Measures the host at HTTP and HTTPS (ADDRESS:PORT): measure.sh DIR. Leaves report.md, JSON and plots in
# DIR. Exit code 1: an objective was missed (p95 below 500 ms, no error, clean streams).
#
# LOADTEST: the program. SECONDS_EACH: length of a step. ATTACK=no: nothing hostile. LOCAL=yes: pair by
# `moonshard pair` on this machine; else with PIN, if the host does not know the client yet.
set -euo pipefail
directory=$1
: "${LOADTEST:?the moonshard-loadtest program}" "${HTTP:?}" "${HTTPS:?}"
each=${SECONDS_EACH:-10}
slo=p95=500ms,errors=0
missed=0
mkdir -p "$directory"
report=$directory/report.md
printf '# Load test of %s\n\n%s, %s cores\n' "$HTTP" "$(date -u +'%F %T UTC')" "$(nproc)" >"$report"

step() { # NAME TITLE ARGUMENTS...: a heading, the program's words, and whether it met its objectives
  local name=$1 title=$2 verdict=met
  shift 2
  echo "== $title"
  if ! "$LOADTEST" "$@" --save-json "$directory/$name.json" >"$directory/$name.txt"; then
    verdict=missed
    missed=1
  fi
  cat "$directory/$name.txt"
  {
    printf '\n## %s: %s\n\n```\n' "$title" "$verdict"
    cat "$directory/$name.txt"
    printf '```\n'
    if [ -f "$directory/$name.svg" ]; then printf '\n![%s](%s.svg)\n' "$title" "$name"; fi
  } >>"$report"
}

handshakes() { # NAME TITLE ARGUMENTS...
  local name=$1 title=$2
  shift 2
  step "$name" "$title" handshake --target "$HTTPS" --seconds "$each" --slo "$slo" \
    --plot "$directory/$name.svg" --hdr-log "$directory/$name.hdr.log" "$@"
}

handshakes closed 'Full handshakes, so many at once' --concurrency 1,4,16
handshakes open 'Full handshakes, so many a second' --rate 20,50,100
handshakes resumed 'Resumed handshakes, so many a second' --resume --rate 50,100,200
if [ "${ATTACK:-yes}" = yes ]; then
  step attack 'Silent connections beside honest ones' attack --kind silent --target "$HTTPS" \
    --connections 500 --seconds "$each" --slo "$slo"
fi
pairing=()
if [ "${LOCAL:-no}" = yes ]; then
  pairing=(--pin-via-admin --moonshard "$MOONSHARD")
elif [ -n "${PIN:-}" ]; then
  pairing=(--pin "$PIN")
fi
check=()
if [ "${APP:-Test pattern}" = "Test pattern" ]; then check=(--pattern-check); fi
step play 'Two clients come and go' play --host "$HTTP" --app "${APP:-Test pattern}" \
  --mode 640x360x30 --bitrate 3000 --clients 2 --cycles 3 --seed "${SEED:-1}" \
  "${check[@]}" "${pairing[@]}"
echo "The report is $report"
exit $missed
