#!/bin/sh
# Starts redis-server as user redis; anything else as it is.
set -e
case "$1" in
-*) set -- redis-server "$@" ;;
esac
if [ "$1" = redis-server ]; then
	set -- "$@" --protected-mode no --dir /data
	if [ "$(id -u)" = 0 ]; then
		chown -R redis:redis /data
		exec setpriv --reuid=redis --regid=redis --clear-groups "$@"
	fi
fi
exec "$@"
