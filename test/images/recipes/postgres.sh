. "$IN_CHROOT"
inside groupadd --system --gid 999 postgres
inside useradd --system --uid 999 --gid postgres --home-dir /var/lib/postgresql --shell /bin/bash postgres
# No cluster of the distribution's own: the entrypoint makes one in PGDATA.
mkdir -p "$M/etc/postgresql-common"
echo 'create_main_cluster = false' > "$M/etc/postgresql-common/createcluster.conf"
packages postgresql-15
inside install -d -o postgres -g postgres -m 1777 /var/lib/postgresql/data
inside install -d -o postgres -g postgres -m 3777 /var/run/postgresql
install -m 755 "$WORK/postgres-entrypoint.sh" "$M/usr/local/bin/docker-entrypoint.sh"
finish
