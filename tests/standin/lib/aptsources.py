"""Print, as deb822, the entries of this machine's apt sources that serve the named Debian release.
usage: aptsources.py SUITE [FILE...]   (FILE: sources to read instead of /etc/apt)"""

import glob
import re
import sys
from pathlib import Path

suite, files = (
    sys.argv[1],
    sys.argv[2:] or ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*"))],
)
seen, out = set(), []


def add(uris, suites, comps, signed):
    suites = [s for s in suites if re.fullmatch(re.escape(suite) + r"(-updates|-security|/updates)?", s)]
    if not suites or "main" not in comps:
        return
    key = (tuple(uris), tuple(suites))
    if key in seen:
        return
    seen.add(key)
    t = f"Types: deb deb-src\nURIs: {' '.join(uris)}\nSuites: {' '.join(suites)}\nComponents: main\n"
    out.append(t + (f"Signed-By: {signed}\n" if signed else ""))


for f in files:
    try:
        text = Path(f).read_text()
    except OSError:
        continue
    if f.endswith(".sources"):
        for para in re.split(r"\n\s*\n", text):
            d, k = {}, None
            for line in para.splitlines():
                if line.startswith("#"):
                    continue
                if line[:1] in " \t" and k:
                    d[k] += "\n" + line
                elif ":" in line:
                    k, v = line.split(":", 1)
                    k = k.strip().lower()
                    d[k] = v.strip()
            if d.get("enabled", "yes").lower() not in ("no", "false") and "uris" in d:
                add(
                    d["uris"].split(),
                    d.get("suites", "").split(),
                    d.get("components", "").split(),
                    d.get("signed-by"),
                )
    elif f.endswith(".list"):
        for line in text.splitlines():
            m = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)", line)
            if m:
                s = re.search(r"signed-by=(\S+)", m[1] or "")
                add([m[2]], [m[3]], m[4].split("#")[0].split(), s and s[1])
if not out:
    sys.exit(1)
sys.stdout.write("\n".join(out) + "\n")
