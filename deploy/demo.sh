#!/usr/bin/env bash
# The main job, from start to end, with real programs, files and sockets; prints a transcript. `make demo` builds and runs it.
#   demo.sh          run, show everything, stop everything
#   demo.sh --stay   set the same up and stay (`make up`); Ctrl-C stops it
set -euo pipefail

bin=${FREEHOLD_BIN:?set FREEHOLD_BIN to the folder with the built programs}
stay=${1:-}
if [ "$stay" = --stay ]; then
    dir=${FREEHOLD_RUN_DIR:-$PWD/.run}
else
    dir=$(mktemp -d "${TMPDIR:-/tmp}/freehold-demo.XXXXXX")
fi
mkdir -p "$dir" && chmod 700 "$dir"
export PATH="$bin:$PATH" FREEHOLD_CONFIG="$dir/freehold.toml"
file_mib=${FREEHOLD_DEMO_MIB:-256}
pids=()
started=$SECONDS

# --- telling ---------------------------------------------------------------------------------------------------------
if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
step=0
title() { step=$((step + 1)); printf '\n%s%2d. %s%s\n' "$bold" "$step" "$*" "$plain"; }
note() { printf '    %s\n' "$*"; }
show() { # prints a command as one would type it, runs it, indents what it says
    local words=() word
    for word in "$@"; do words+=("${word//"$dir"\//}"); done
    printf '%s    $ %s%s\n' "$dim" "${words[*]}" "$plain"
    "$@" 2>&1 | sed "s|$dir/||g; s/^/    /"
}
refused() { # the same for a command that must fail; its words are part of the story
    local status=0
    show "$@" || status=$?
    if [ "$status" -eq 0 ]; then note "this should have been refused"; exit 1; fi
    note "(exit code $status)"
}
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }
now_ms() { date +%s%3N; }

# --- stopping --------------------------------------------------------------------------------------------------------
stop_all() {
    local status=$? pid
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    if [ "$status" -eq 130 ]; then
        printf '\nStopped.\n'
        [ "$stay" != --stay ] || status=0
    elif [ "$status" -ne 0 ]; then
        echo
        echo "demo: failed; the last lines of the logs:"
        tail -n 15 "$dir"/*.log 2>/dev/null || true
    fi
    [ "$stay" = --stay ] || rm -rf "$dir"
    exit "$status"
}
trap stop_all EXIT
trap 'exit 130' INT TERM

wait_for() { # url ca what
    local _
    for _ in $(seq 1 300); do
        if curl --silent --fail --max-time 2 --cacert "$2" "$1" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    die "$3 did not become ready: $(curl --silent --max-time 2 --cacert "$2" "$1" || true)"
}
free_port() { # a port of this machine nobody listens on
    local port
    while :; do
        port=$((20000 + RANDOM % 20000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}

api=${FREEHOLD_API_PORT:-$(free_port)}
agents=${FREEHOLD_AGENTS_PORT:-$(free_port)}
rest=${FREEHOLD_REST_PORT:-$(free_port)}

# --- 1: control plane ------------------------------------------------------------------------------------------------
cat <<TXT
Freehold: policy from the cloud, keys at home.
This runs the real programs with a SQLite file and a sealed file vault; everything is in $dir.
Lines that begin with \$ are commands as you would type them.
TXT

title "Start a control plane (SQLite, nothing else needed)"
cat >"$dir/control-plane.toml" <<TOML
data_dir = "$dir/control-plane"
development = true
[server]
listen = "127.0.0.1:$api"
[agents]
listen = "127.0.0.1:$agents"
TOML
[ -f "$dir/control-plane/operator.token" ] && die "$dir is in use: stop what runs there, or remove it"
note "\$ freehold-control-plane serve --config control-plane.toml &"
setsid freehold-control-plane serve --config "$dir/control-plane.toml" >"$dir/control-plane.log" 2>&1 &
control_plane=$!
pids+=("$control_plane")
ca="$dir/control-plane/tls/authority.pem"
for _ in $(seq 1 300); do [ -f "$ca" ] && break; sleep 0.1; done
wait_for "https://127.0.0.1:$api/readyz" "$ca" "the control plane"
note "It made a sealing key, a certificate and the first operator token, readable by its owner only:"
ls -l "$dir/control-plane/operator.token" "$dir/control-plane/sealing.key" | awk -v d="$dir/" '{sub(d, "", $NF); print "    " $1, $NF}'
show freehold profile set operator --server "https://127.0.0.1:$api" --ca-file "$ca" --token-file "$dir/control-plane/operator.token"

title "Create a tenant, a project and a site"
show freehold tenant create acme --display-name "Acme Ltd" --admin-token-file "$dir/acme-admin.token"
show freehold profile set acme --server "https://127.0.0.1:$api" --ca-file "$ca" --token-file "$dir/acme-admin.token"
show freehold project create payments
show freehold site create fra-dc1 --display-name "Frankfurt, data centre 1"

# --- 2: agent --------------------------------------------------------------------------------------------------------
title "Enrol an agent: a single-use token that also says which root to believe"
show freehold agent invite --site fra-dc1 --enrolment-file "$dir/agent.enrolment"
head -c 32 /dev/urandom | base64 -w0 >"$dir/vault.passphrase" && chmod 600 "$dir/vault.passphrase"
cat >"$dir/agent.toml" <<TOML
data_dir = "$dir/agent"
[server]
listen = "127.0.0.1:$rest"
[vault]
kind = "file"
passphrase_file = "$dir/vault.passphrase"
TOML
show freehold-agent enrol --config "$dir/agent.toml" --token-file "$dir/agent.enrolment"
note "\$ freehold-agent run --config agent.toml &"
setsid freehold-agent run --config "$dir/agent.toml" >"$dir/agent.log" 2>&1 &
agent=$!
pids+=("$agent")
agent_ca="$dir/agent/tls/authority.pem"
for _ in $(seq 1 300); do [ -f "$agent_ca" ] && break; sleep 0.1; done
wait_for "https://127.0.0.1:$rest/readyz" "$agent_ca" "the agent"
show freehold agent list

# --- 3: keys ---------------------------------------------------------------------------------------------------------
title "Create three keys: the control plane asks, the agent makes them in its vault"
show freehold key create files --project payments --site fra-dc1 --algorithm A256KW+A256GCM --purpose encrypt --durability single-copy --label env=demo --wait -o name
show freehold key create hybrid --project payments --site fra-dc1 --algorithm HPKE-9-KE --purpose encrypt --durability single-copy --wait -o name
show freehold key create documents --project payments --site fra-dc1 --algorithm ML-DSA-65 --purpose sign --durability single-copy --wait -o name
note "Durability single-copy was chosen by name, so every listing says it:"
show freehold key list

# --- 4: callers and policy -------------------------------------------------------------------------------------------
title "Register two callers; their secrets are made on the agent and known nowhere else"
show freehold caller register app --project payments --token-site fra-dc1 --label team=billing
show freehold caller register auditor --project payments --token-site fra-dc1
app=$(freehold caller show payments/app -o name)
auditor=$(freehold caller show payments/auditor -o name)
show freehold-agent caller add --config "$dir/agent.toml" "$app" --token-file "$dir/app.token"
show freehold-agent caller add --config "$dir/agent.toml" "$auditor" --token-file "$dir/auditor.token"

title "Publish a policy: the app may use the keys, the auditor may only verify"
cat >"$dir/policy.cedar" <<CEDAR
@id("app-uses-keys")
permit (
    principal == Caller::"$app",
    action in [Action::"encrypt", Action::"decrypt", Action::"sign", Action::"verify"],
    resource
);

@id("auditor-verifies")
permit (
    principal == Caller::"$auditor",
    action == Action::"verify",
    resource
);

@id("backups-name-their-purpose")
forbid (principal, action == Action::"encrypt", resource)
unless { context.encryption.hasTag("purpose") };
CEDAR
sed 's/^/    | /' "$dir/policy.cedar"
show freehold policy check "$dir/policy.cedar"
show freehold policy create main --project payments -o name
before=$(now_ms)
show freehold policy publish payments/main --file "$dir/policy.cedar" --comment "The app and its auditor"
use() { local who=$1; shift; freehold --agent "https://127.0.0.1:$rest" --agent-ca-file "$agent_ca" --caller-token-file "$dir/$who.token" "$@"; }
as() { # the same command as a person would type it, with a profile
    local who=$1
    shift
    show freehold --profile "$who" "$@"
}
for who in app auditor; do
    freehold --agent "https://127.0.0.1:$rest" --agent-ca-file "$agent_ca" --caller-token-file "$dir/$who.token" profile set "$who" >/dev/null
done
freehold profile use acme >/dev/null
printf 'hello' >"$dir/hello"
until use app encrypt --quiet --key payments/files --context purpose=hello --input "$dir/hello" >"$dir/hello.fhf" 2>/dev/null; do
    [ $(($(now_ms) - before)) -lt 30000 ] || die "the agent does not enforce the policy after 30 s"
    sleep 0.02
done
note "The agent enforces it $(($(now_ms) - before)) ms after the publish command began."
show freehold site statements fra-dc1

if [ "$stay" = --stay ]; then
    cat <<TXT

${bold}It is running.${plain} Ctrl-C stops it; 'rm -r $dir' forgets it.

  GraphQL and GraphiQL   https://127.0.0.1:$api/graphql   (authority: $ca)
  Agent REST             https://127.0.0.1:$rest/v1       (authority: $agent_ca)
  Logs                   $dir/control-plane.log, $dir/agent.log

Try, in another shell:
  export PATH=$bin:\$PATH FREEHOLD_CONFIG=$dir/freehold.toml
  freehold key list
  freehold --profile app encrypt --key payments/files --context purpose=try -i README.md --out readme.fhf
  freehold --profile app decrypt --context purpose=try -i readme.fhf
  freehold --profile auditor decrypt --context purpose=try -i readme.fhf     # refused, and told why
  freehold receipt list
TXT
    wait -n "${pids[@]}" || true
    die "a program ended; see the logs in $dir"
fi

# --- 5: files --------------------------------------------------------------------------------------------------------
title "Encrypt a real file of $file_mib MiB through the agent, with an encryption context, and decrypt it"
head -c "$((file_mib * 1024 * 1024))" /dev/urandom >"$dir/backup.tar"
before=$(now_ms)
as app encrypt --key payments/files --context purpose=backup --context host=db7 --input "$dir/backup.tar" --out "$dir/backup.fhf" --quiet
middle=$(now_ms)
as app decrypt --context purpose=backup --context host=db7 --input "$dir/backup.fhf" --out "$dir/backup.out" --quiet
after=$(now_ms)
cmp "$dir/backup.tar" "$dir/backup.out" || die "the decrypted file differs"
note "Identical: $(sha256sum "$dir/backup.out" | cut -c1-32)..., sealed $(stat -c %s "$dir/backup.fhf") bytes."
note "Encrypted at $((file_mib * 1000 / (middle - before + 1))) MiB/s, decrypted at $((file_mib * 1000 / (after - middle + 1))) MiB/s; the agent's memory peaked at $(awk '/VmHWM/ {print int($2 / 1024)}' "/proc/$agent/status") MiB."

title "Another context, a flipped byte, a cut-off file: refused, and nothing is kept"
refused freehold --profile app decrypt --context purpose=backup --context host=db8 --input "$dir/backup.fhf" --out "$dir/never" --quiet
cp "$dir/backup.fhf" "$dir/flipped.fhf"
printf '\x01' | dd of="$dir/flipped.fhf" bs=1 seek=$((file_mib * 1024 * 512)) conv=notrunc status=none
refused freehold --profile app decrypt --context purpose=backup --context host=db7 --input "$dir/flipped.fhf" --out "$dir/never" --quiet
head -c $((file_mib * 1024 * 1000)) "$dir/backup.fhf" >"$dir/cut.fhf"
refused freehold --profile app decrypt --context purpose=backup --context host=db7 --input "$dir/cut.fhf" --out "$dir/never" --quiet
[ ! -e "$dir/never" ] || die "something was kept"

title "The same for the hybrid post-quantum key (X25519 with ML-KEM-768)"
as app encrypt --key payments/hybrid --context purpose=letter --input "$dir/policy.cedar" --out "$dir/letter.fhf" --quiet
as app decrypt --context purpose=letter --input "$dir/letter.fhf" --out "$dir/letter.out" --quiet
cmp "$dir/policy.cedar" "$dir/letter.out" && note "Identical."

# --- 6: signatures ---------------------------------------------------------------------------------------------------
title "Sign a document with ML-DSA-65 and let the auditor verify it"
as app sign --key payments/documents "$dir/policy.cedar" --signature "$dir/policy.jws"
as auditor verify --signature "$dir/policy.jws" "$dir/policy.cedar"
sed 's/permit/PERMIT/' "$dir/policy.cedar" >"$dir/forged.cedar"
refused freehold --profile auditor verify --signature "$dir/policy.jws" "$dir/forged.cedar"

title "Sign with a classical and a post-quantum key at once, under one name and one rule"
show freehold key create documents-ec --project payments --site fra-dc1 --algorithm ECDSA-P256 --purpose sign --durability single-copy --wait -o name
show freehold composite create contracts --project payments --classical payments/documents-ec --post-quantum payments/documents
before=$(now_ms)
until use app sign --key payments/contracts "$dir/policy.cedar" >/dev/null 2>&1; do
    [ $(($(now_ms) - before)) -lt 30000 ] || die "the agent does not know the composite after 30 s"
    sleep 0.02
done
as app sign --key payments/contracts "$dir/policy.cedar" --signature "$dir/both.jws"
as auditor verify --signature "$dir/both.jws" --key payments/contracts "$dir/policy.cedar"
note "Whoever passes it on may leave the post-quantum one out; each signature says that there is another:"
sed 's/},{.*/}]}/' "$dir/both.jws" >"$dir/one.jws"
refused freehold --profile auditor verify --signature "$dir/one.jws" "$dir/policy.cedar"

title "A refusal says why"
refused freehold --profile auditor decrypt --context purpose=letter --input "$dir/letter.fhf" --out "$dir/never" --quiet
refused freehold --profile app encrypt --key payments/files --input "$dir/hello" --out "$dir/never" --quiet

# --- 7: rotation, revocation -----------------------------------------------------------------------------------------
title "Rotate a key; what the old version sealed still opens"
show freehold key rotate payments/files --wait -o name
show freehold key show payments/files
as app decrypt --context purpose=backup --context host=db7 --input "$dir/backup.fhf" --out "$dir/backup.again" --quiet
cmp "$dir/backup.tar" "$dir/backup.again" && note "Identical."

title "Revoke the app; how long until the agent refuses it?"
before=$(now_ms)
show freehold caller revoke payments/app --reason keyCompromise --comment "its host was stolen"
while use app decrypt --quiet --context purpose=hello --input "$dir/hello.fhf" >/dev/null 2>&1; do
    [ $(($(now_ms) - before)) -lt 30000 ] || die "the revoked caller is still served after 30 s"
    sleep 0.02
done
note "Refused $(($(now_ms) - before)) ms after the revoke command began:"
refused freehold --profile app decrypt --context purpose=hello --input "$dir/hello.fhf" --quiet

title "Stop the control plane; the agent goes on by itself"
show freehold caller register app2 --project payments --token-site fra-dc1 -o name
app2=$(freehold caller show payments/app2 -o name)
show freehold-agent caller add --config "$dir/agent.toml" "$app2" --token-file "$dir/app2.token"
sed "s/$app/$app2/" "$dir/policy.cedar" >"$dir/policy2.cedar"
show freehold policy publish payments/main --file "$dir/policy2.cedar" --comment "app2 takes over"
before=$(now_ms)
until use app2 decrypt --quiet --context purpose=hello --input "$dir/hello.fhf" >/dev/null 2>&1; do
    [ $(($(now_ms) - before)) -lt 30000 ] || die "the agent does not enforce the policy after 30 s"
    sleep 0.05
done
for _ in $(seq 1 100); do # receipts are shipped in the background
    [ "$(freehold receipt list --caller "$app2" -o name | wc -l)" -gt 0 ] && break
    sleep 0.1
done
events=$(freehold event list --limit 60)
receipts=$(freehold receipt list --limit 40)
kill "$control_plane"
wait "$control_plane" || true
note "The control plane has stopped."
freehold --agent "https://127.0.0.1:$rest" --agent-ca-file "$agent_ca" --caller-token-file "$dir/app2.token" profile set app2 >/dev/null
as app2 decrypt --context purpose=hello --input "$dir/hello.fhf" --out "$dir/hello.out" --quiet
cmp "$dir/hello" "$dir/hello.out" && note "Decrypted, with the control plane down."
as app2 status

title "The events that were recorded"
sed 's/^/    /' <<<"$events"

title "The receipts of the agent"
sed 's/^/    /' <<<"$receipts"

printf '\n%sDone in %d s.%s Nothing is left running, and %s is removed.\n' "$bold" $((SECONDS - started)) "$plain" "$dir"
