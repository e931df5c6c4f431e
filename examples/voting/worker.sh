#!/bin/bash
# Takes votes from the list in Redis, counts them in PostgreSQL, and stores the result
# where the web server reads it. It ends on any error, and is started again.
set -euo pipefail
trap 'exit 0' TERM # as process 1 it would not end on its own account
export PGHOST=db PGUSER=postgres PGDATABASE=votes
PGPASSWORD=$(cat /run/secrets/db_password)
export PGPASSWORD

# One connection to each: psql runs what is written to it and prints the answer.
coproc DB { exec psql -qtAX -v ON_ERROR_STOP=1; }
echo 'SET client_min_messages = error; CREATE TABLE IF NOT EXISTS votes (choice text PRIMARY KEY, n bigint NOT NULL);' >&"${DB[1]}"
exec 3<>/dev/tcp/redis/6379
# answer reads a reply: a line, or the last of an array of strings ("" = none).
answer() {
	local line n
	IFS= read -r line <&3
	line=${line%$'\r'}
	case $line in
	-*) echo "redis: $line" >&2; exit 1 ;;
	'*-1') REPLY= ;;
	'*'*) for ((n = ${line#?}; n > 0; n--)); do IFS= read -r _ <&3; IFS= read -r REPLY <&3; done; REPLY=${REPLY%$'\r'} ;;
	*) REPLY=$line ;;
	esac
}
while true; do
	printf 'BRPOP votes 5\r\n' >&3
	answer
	vote=$REPLY
	[[ $vote =~ ^[a-z]+$ ]] || continue # nothing came, or nothing that may be in a statement
	echo "INSERT INTO votes VALUES ('$vote', 1) ON CONFLICT (choice) DO UPDATE SET n = votes.n + 1;
		SELECT string_agg(choice || '=' || n, ' ' ORDER BY choice) FROM votes;" >&"${DB[1]}"
	IFS= read -r result <&"${DB[0]}"
	printf '*3\r\n$3\r\nSET\r\n$6\r\nresult\r\n$%d\r\n%s\r\n' "${#result}" "$result" >&3
	answer
done
