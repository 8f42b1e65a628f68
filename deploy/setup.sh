#!/usr/bin/env bash
# Installs what building or testing needs, by the ordinary package clients, and says what it does. Quick when all is there.
#   setup.sh build   a C compiler and make
#   setup.sh test    beside that: PostgreSQL's server programs
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

postgres_bin() { ls -d /usr/lib/postgresql/*/bin /usr/local/pgsql/bin 2>/dev/null | tail -n 1; }

case "${1:-build}" in
build) build ;;
test)
    build
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
        { say "the Rust toolchain lacks rustfmt or clippy: rustup component add rustfmt clippy"; exit 1; }
    if ! command -v initdb >/dev/null && [ -z "$(postgres_bin)" ]; then apt_install postgresql; fi
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
