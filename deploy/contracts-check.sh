#!/usr/bin/env bash
# Prints every contract from the programs and compares it with the committed file.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1
status=0
check() { # file program subcommand
    if ! diff -u "schema/contracts/$1" <("$bin/$2" "$3") >&2; then
        echo "contracts: schema/contracts/$1 differs from what $2 $3 prints: run 'make contracts' and commit the result" >&2
        status=1
    fi
}
check control-plane.graphql freehold-control-plane print-sdl
check agent.openapi.json freehold-agent print-openapi
check control-plane.config.schema.json freehold-control-plane print-config-schema
check agent.config.schema.json freehold-agent print-config-schema
[ $status -eq 0 ] && echo "contracts: 4 files match the code"
exit $status
