# Debian 12, minimal: no manuals, no translations, no package lists.
mmdebstrap --quiet --mode=root --variant=minbase \
	--dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-include=/usr/share/doc/*/copyright' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--aptopt='Acquire::Languages "none"' \
	bookworm "$WORK/debian.tar" \
	'deb http://deb.debian.org/debian bookworm main' \
	'deb http://deb.debian.org/debian bookworm-updates main' \
	'deb http://deb.debian.org/debian-security bookworm-security main'
tar --xattrs --xattrs-include='*' --numeric-owner -xpf "$WORK/debian.tar" -C "$ROOT"
rm -rf "$ROOT"/dev/* "$ROOT"/var/log/* "$ROOT"/var/cache/ldconfig/* "$ROOT"/run/*
