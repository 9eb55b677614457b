"""The result of perf/run as ratios and as README.md's table."""
BEGIN, END = "<!-- perf: begin -->", "<!-- perf: end -->"
NAMES = {"moonshard": "moonshard", "nginx": "nginx", "wolf": "one loop, OpenSSL", "bare": "bare rustls loop"}
RATES = {"full13": "full handshake, TLS 1.3, per core-second", "full12": "full handshake, TLS 1.2, per core-second",
         "resumed13": "resumed, TLS 1.3, per core-second"}
TIMES = {"half": "p50 / p95 / p99 at half of its rate, ms", "flood": "the same at 200/s beside 500 silent connections",
         "encoder": "the same at 200/s beside x264enc", "outage": "the same at 50/s while one request is stuck"}


def ratios(found):
    """moonshard's handshakes per core-second against each other server's."""
    result = {}
    for case in RATES:
        rates = {name: one["median"].get("per_core_second") for name, one in found.get(case, {}).items()}
        own = rates.pop("moonshard", None)
        rates["floor"] = found.get("floor", {}).get("bare", {}).get("median", {}).get(case)
        result[case] = {name: round(own / rate, 3) for name, rate in rates.items() if own and rate}
    return {case: of for case, of in result.items() if of}


def rows(found):
    for case, title in RATES.items():
        yield title, case, lambda m: f"{m['per_core_second']:,.0f}" if m.get("per_core_second") else "–"
    for case, title in TIMES.items():
        yield title, case, lambda m: " / ".join(ms(m.get(key)) for key in ("p50_us", "p95_us", "p99_us"))
    yield "memory of a stalled handshake, KB", "memory", lambda m: f"{m['bytes_per_stalled'] / 1000:.1f}"
    yield "processor while idle", "idle", lambda m: f"{m['cpu_percent']:.1f} %"
    yield "memory while idle, all processes, MB", "idle", lambda m: f"{m['rss_mb']:.0f}"


def ms(value):
    return "–" if value is None else f"{value / 1000:.2f}" if value < 10_000 else f"{value / 1000:,.0f}"


def render(result):
    found, about = result["cases"], result["machine"]
    lines = ["| | " + " | ".join(NAMES.values()) + " |", "|---|" + "---|" * len(NAMES)]
    for title, case, text in rows(found):
        if case in found:
            cells = [text(found[case][name]["median"]) if name in found[case] else "" for name in NAMES]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    how = f"{result['rounds']} round{'s' * (result['rounds'] > 1)} of {result['seconds']:.0f} s"
    lines += ["", f"{about['processor']}, one core for the server, Linux {about['kernel']}, nginx {about['nginx']}, "
              f"{about['openssl']}; {result['date']}, commit {about['commit']}, medians of {how}."]
    if floors := [f"{of['floor']:.0%} in {RATES[case].split(', per')[0]}"
                  for case, of in result["ratios"].items() if "floor" in of]:
        lines += ["", "Of what rustls in memory and the sockets' system calls alone would allow, "
                  f"moonshard reaches {', '.join(floors)}."]
    return "\n".join(lines)


def write(readme, result):
    text = readme.read_text()
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    readme.write_text(f"{head}{BEGIN}\n{render(result)}\n{END}{tail}")
