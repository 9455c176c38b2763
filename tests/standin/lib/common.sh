# Sourced by board and phone. Everything the kit builds lies under $D; nothing is installed on the machine
# except, by `phone make` as root where there is no compiler, build-essential.
set -euo pipefail
KIT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
D=${XDG_CACHE_HOME:-$HOME/.cache}/standin
say() { printf 'standin: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
set_dir() { case $1 in *[:,\ ]*) die "--dir must not contain a colon, comma or space";; esac; mkdir -p "$1"; D=$(cd "$1" && pwd); mkdir -p "$D/tools"; }

lock() { exec 9>"$D/.lock"; flock 9; }                       # one make at a time per --dir

need_host() {   # need_host COMMAND... : refuse a machine that cannot make a board
  [ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || die "needs a Debian amd64 machine"
  local miss=""
  for c in "$@"; do command -v "$c" >/dev/null || miss="$miss $c"; done
  [ -z "$miss" ] || die "missing:$miss (apt-get install build-essential xz-utils util-linux)"
}

need_compiler() {   # need_compiler: as root, get one where there is none
  local c miss=""
  for c in g++ dpkg-source xz flock; do command -v $c >/dev/null || miss="$miss $c"; done
  if [ -n "$miss" ] && [ "$(id -u)" = 0 ]; then
    say "installing build-essential (missing:$miss)"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends build-essential xz-utils util-linux; } >&2 || die "apt-get failed"
  fi
  need_host g++ dpkg-source xz flock
}

# A private apt: the machine's own Debian sources (release $SUITE only), amd64+arm64+source, empty dpkg status.
SUITE=bookworm
apt_init() {
  A=$D/apt; mkdir -p "$A/lists/partial" "$A/cache/archives/partial" "$A/sources" "$A/state"; : >"$A/state/status"
  python3 -B "$KIT/lib/aptsources.py" $SUITE ${STANDIN_SOURCES:-} >"$A/sources/standin.sources" || die "no Debian $SUITE source in /etc/apt (set STANDIN_SOURCES=FILE)"
  cat >"$A/apt.conf" <<X
APT::Architecture "amd64"; APT::Architectures { "amd64"; "arm64"; };
Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "$A/sources";
Dir::State "$A/state"; Dir::State::lists "$A/lists"; Dir::State::status "$A/state/status"; Dir::Cache "$A/cache";
Acquire::Languages "none"; Acquire::Retries "3"; APT::Sandbox::User "$(id -un)";
X
  export APT_CONFIG=$A/apt.conf
  if [ -z "$(find "$A/updated" -mmin -720 2>/dev/null)" ]; then apt-get update -q >"$A/update.log" 2>&1 || { tail -5 "$A/update.log" >&2; die "apt-get update failed"; }; touch "$A/updated"; fi
}
# unpack DEST PKG... : download the named packages (no dependencies) and unpack them into DEST
unpack() {
  local dest=$1 t; shift; apt_init; t=$(mktemp -d "$D/tmp.XXXXXX"); mkdir -p "$dest"
  (cd "$t" && apt-get download -q "$@" >log 2>&1) || { tail -5 "$t/log" >&2; die "apt-get download failed"; }
  for f in "$t"/*.deb; do dpkg-deb --fsys-tarfile "$f" | tar -x --no-same-owner --keep-directory-symlink -C "$dest"; done
  rm -rf "$t"
}
# get_source DEST PKG : download a source package's files, not unpacked
get_source() {
  apt_init; mkdir -p "$1"; (cd "$1" && apt-get source -q --download-only "$2" >log 2>&1) || { tail -5 "$1/log" >&2; die "apt-get source $2 failed"; }
}
