. "$IN_CHROOT"
inside groupadd --system --gid 999 redis
inside useradd --system --uid 999 --gid redis --home-dir /nonexistent --no-create-home redis
packages redis-server
inside install -d -o redis -g redis /data
install -m 755 "$WORK/redis-entrypoint.sh" "$M/usr/local/bin/docker-entrypoint.sh"
finish
