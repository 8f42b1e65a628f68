#!/usr/bin/env bash
# Installs what building or testing needs, by the ordinary package clients, and says what it does. Quick when all is there.
#   setup.sh build   a C compiler and make
#   setup.sh test    beside that: PostgreSQL's server programs, OpenSSL's command line, SoftHSM2, and the programs of others that check our
#                    formats (tests/peers), from PyPI and npm at the versions written down there
#   setup.sh deny    beside that: cargo-deny
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }

apt_install() {
    if ! command -v apt-get >/dev/null; then
        say "please install: $* (this script only knows apt-get)"
        exit 1
    fi
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { say "please install as root: apt-get install $*"; exit 1; }
        sudo=(sudo)
    fi
    say "installing $*"
    "${sudo[@]}" apt-get update -qq >/dev/null
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

need_rust() {
    command -v cargo >/dev/null || { say "no Rust toolchain: install Rust 1.95 or newer (rustup or your distribution), then run this again"; exit 1; }
}

build() {
    need_rust
    command -v cc >/dev/null || apt_install build-essential
    command -v curl >/dev/null || apt_install curl ca-certificates
}

# Kept in $FREEHOLD_TOOLS/peers, and made again when what is written down changes. The list is copied last: what was broken off is redone.
peers() {
    local here kept="$FREEHOLD_TOOLS/peers"
    here="$(cd "$(dirname "${BASH_SOURCE[0]}")/../tests/peers" && pwd)"
    if ! cmp -s "$here/python/requirements.txt" "$kept/python/requirements.txt"; then
        python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
        say "installing Python libraries that check our formats (kept in $kept)"
        rm -rf "$kept/python"
        python3 -m venv "$kept/python"
        "$kept/python/bin/pip" --quiet --disable-pip-version-check install --requirement "$here/python/requirements.txt"
        cp "$here/python/requirements.txt" "$kept/python/"
    fi
    if ! cmp -s "$here/javascript/package-lock.json" "$kept/javascript/installed.json"; then
        command -v npm >/dev/null || apt_install npm
        say "installing npm packages that check our formats (kept in $kept)"
        rm -rf "$kept/javascript"
        mkdir -p "$kept/javascript"
        cp "$here/javascript/package.json" "$here/javascript/package-lock.json" "$kept/javascript/"
        (cd "$kept/javascript" && npm ci --silent --no-audit --no-fund)
        cp "$here/javascript/package-lock.json" "$kept/javascript/installed.json"
    fi
}

postgres_bin() { ls -d /usr/lib/postgresql/*/bin /usr/local/pgsql/bin 2>/dev/null | tail -n 1; }

case "${1:-build}" in
build) build ;;
test)
    build
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
        { say "the Rust toolchain lacks rustfmt or clippy: rustup component add rustfmt clippy"; exit 1; }
    if ! command -v initdb >/dev/null && [ -z "$(postgres_bin)" ]; then apt_install postgresql; fi
    command -v openssl >/dev/null || apt_install openssl
    command -v softhsm2-util >/dev/null || apt_install softhsm2
    peers
    ;;
deny)
    need_rust
    if ! command -v cargo-deny >/dev/null; then
        say "building cargo-deny (once; kept in $FREEHOLD_TOOLS)"
        cargo install --quiet --locked --debug --root "$FREEHOLD_TOOLS" cargo-deny
    fi
    ;;
*)
    say "usage: setup.sh build|test|deny"
    exit 2
    ;;
esac
