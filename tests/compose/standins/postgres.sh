# The part of the official image's entry point that our compose file uses.
set -eu
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /run/postgresql
    chown -R postgres "$(dirname "$PGDATA")" /run/postgresql
    exec setpriv --reuid postgres --regid postgres --init-groups sh "$0" "$@"
fi
if ! [ -s "$PGDATA/PG_VERSION" ]; then
    initdb --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" --auth-local trust --encoding UTF8 \
        $POSTGRES_INITDB_ARGS >/dev/null
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -j postgres >/dev/null 2>&1 || true
fi
[ "${1:-}" != postgres ] || shift
exec postgres -c listen_addresses='*' -c unix_socket_directories=/run/postgresql "$@"
