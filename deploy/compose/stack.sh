#!/bin/sh
# The compose stack's chores, behind `make up`, `down`, `logs`, `token`, `grafana`, `authority`, `certificates`,
# `backup`, `restore` and `upgrade`.
#
# A backup is cold: everything stops, every volume is copied, everything starts again. So it is one moment of all
# stores together, secrets included: keep it as you keep the keys. Runs that were going on go on from their checkpoints.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
project=${COMPOSE_PROJECT_NAME:-aios}
settings=${AIOS_ENV_FILE:-$here/.env}
images="gateway scheduler data trainer inference worker serving-worker"
# NO_BUILD: images come from elsewhere, under the names in $settings; `upgrade` then asks NEW_IMAGES to bring them.

say() { echo "aios: $*" >&2; }
fail() { say "$*"; exit 1; }

engine() { ${DOCKER:-docker} "$@"; }
if [ -n "${DOCKER_COMPOSE:-}" ]; then
    compose() { $DOCKER_COMPOSE --project-name "$project" $files $known "$@"; }
else
    compose() { engine compose --project-name "$project" $files $known "$@"; }
fi
# What $settings does not say, since it is older than a setting, is as in the example.
known="--env-file $here/.env.example --env-file $settings"
files="--file $here/compose.yaml"
for more in ${COMPOSE_OVERRIDES:-}; do files="$files --file $more"; done

setting() { cat "$here/.env.example" "$settings" | sed -n "s/^$1=//p" | tail -1; }
# The version before may have had fewer images.
keep() { if engine image inspect "$1" >/dev/null 2>&1; then engine tag "$1" "$2"; fi; }
image() { echo "$(setting AIOS_IMAGE_PREFIX)/$1:$(setting AIOS_VERSION)"; }
tls() { case " ${COMPOSE_OVERRIDES:-} " in *compose.tls.yaml\ *) return 0 ;; *) return 1 ;; esac }
address() { if tls; then echo "https://localhost:$(setting AIOS_PORT)"; else echo "http://$(setting AIOS_BIND):$(setting AIOS_PORT)"; fi; }
volumes() { engine volume ls --quiet --filter "label=com.docker.compose.project=$project"; }

# The image has tar; no server's own tools are needed, and the same works for every volume.
in_volume() { # VOLUME MODE COMMAND...
    volume=$1 mode=$2
    shift 2
    engine run --rm --interactive --network none --user root --volume "$volume:/volume$mode" \
        --entrypoint sh "$(image gateway)" -c "$*"
}

start() {
    compose up --detach --remove-orphans --wait --wait-timeout "${WAIT_SECONDS:-180}" ${NO_BUILD:+--no-build} "$@" >&2 || return 1
    trusted=$(mktemp)
    authority > "$trusted"
    answers=1
    for _ in $(seq 60); do
        curl --fail --silent --cacert "$trusted" --output /dev/null "$(address)/healthz" && answers=0 && break
        sleep 0.5
    done
    rm "$trusted"
    return $answers
}

up() {
    [ -e "$settings" ] || { cp "$here/.env.example" "$settings"; say "wrote $settings: change what you need there"; }
    [ -n "${NO_BUILD:-}" ] || compose build
    start || fail "not everything answers: $0 logs shows why"
    say "AIOS is up at $(address). The operator's token: make token"
}

authority() { in_volume "${project}_operator-secrets" :ro cat /volume/peers.crt; }

# Certificates of a new authority for everybody at once: nobody believes the former ones any more.
certificates() {
    compose run --rm secrets --new-authority >&2
    start --force-recreate || fail "not everything answers: $0 logs shows why"
    say "every process has a new certificate; clients that trusted the former authority need: $0 authority"
}

token() { in_volume "${project}_operator-secrets" :ro cat /volume/operator.token; }

backup() {
    target=${1:-backups/$(date -u +%Y%m%dT%H%M%SZ)}
    mkdir -p "$target"
    chmod 700 "$target"
    say "stopping, to copy everything at one moment"
    compose stop >&2
    for volume in $(volumes); do
        in_volume "$volume" :ro tar -C /volume -c . > "$target/${volume#"${project}"_}.tar"
    done
    (cd "$target" && sha256sum ./*.tar > SHA256SUMS)
    start || fail "the backup in $target is whole, but not everything answers again: $0 logs shows why"
    say "backup: $target, $(du -sh "$target" | cut -f1)"
}

restore() {
    from=${1:?"make restore FROM=FOLDER: the folder of a backup"}
    (cd "$from" && sha256sum --check --quiet SHA256SUMS) || fail "$from is damaged: nothing was changed"
    compose down --volumes >&2
    compose create --quiet-pull ${NO_BUILD:+--no-build} >&2
    for archive in "$from"/*.tar; do
        name=$(basename "$archive" .tar)
        in_volume "${project}_$name" "" 'find /volume -mindepth 1 -delete && tar -C /volume -x' < "$archive"
    done
    start || fail "restored, but not everything answers: $0 logs shows why"
    say "restored from $from"
}

upgrade() {
    target=backups/before-upgrade-$(date -u +%Y%m%dT%H%M%SZ)
    for one in $images; do keep "$(image "$one")" "$(image "$one")-before"; done
    backup "$target"
    if [ -z "${NO_BUILD:-}" ]; then compose build; else ${NEW_IMAGES:-true}; fi
    # Each service migrates its own records as it starts, and does not answer before.
    if start --force-recreate; then
        say "upgraded; the state before is in $target"
        return
    fi
    say "the new version does not come up: going back to $target"
    compose logs --tail 20 >&2 || true
    for one in $images; do keep "$(image "$one")-before" "$(image "$one")"; done
    NO_BUILD=1 restore "$target"
    exit 1
}

case "${1:-}" in
up) up ;;
down) compose down ;;
logs) compose logs --follow --tail 100 ;;
token) token ;;
authority) authority ;;
certificates) certificates ;;
grafana) in_volume "${project}_grafana-secrets" :ro cat /volume/grafana.password ;;
backup) backup ${2:+"$2"} ;;
restore) restore ${2:+"$2"} ;;
upgrade) upgrade ;;
compose) shift; compose "$@" ;;
*) fail "one of up, down, logs, token, backup, restore, upgrade" ;;
esac
