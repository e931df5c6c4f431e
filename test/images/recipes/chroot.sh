# Sourced by the recipes that run inside the base image: mounts it as an overlay
# (what changes lands in $WORK/upper) with the package cache of this machine
# bound in, and defines `inside COMMAND...` and `packages NAME...`.
M=$WORK/merged
mount -t overlay overlay -o "lowerdir=$WORK/lower,upperdir=$WORK/upper,workdir=$WORK/ovl" "$M"
mount -t proc proc "$M/proc"
mount --bind /dev "$M/dev"
mount --bind "$CACHE/apt/archives" "$M/var/cache/apt/archives"
mount --bind "$CACHE/apt/lists" "$M/var/lib/apt/lists"
# A file of a bind mount leaves no trace in the layer; its mount point would.
resolv=$M/etc/resolv.conf
[ -e "$resolv" ] || { : > "$resolv"; resolv_made=1; }
mount --bind "$(readlink -f /etc/resolv.conf)" "$resolv"
printf '#!/bin/sh\nexit 101\n' > "$M/usr/sbin/policy-rc.d"
chmod 755 "$M/usr/sbin/policy-rc.d"

inside() { chroot "$M" "$@"; }

packages() {
	if [ -z "$(find "$CACHE/apt/lists" -maxdepth 1 -name '*InRelease' -mmin -360)" ]; then
		inside apt-get -qq -o APT::Sandbox::User=root update
	fi
	inside apt-get -qq -y -o APT::Sandbox::User=root -o APT::Keep-Downloaded-Packages=true \
		--no-install-recommends install "$@"
}

finish() {
	rm -f "$M/usr/sbin/policy-rc.d"
	umount "$resolv"
	[ -z "${resolv_made:-}" ] || rm -f "$resolv"
	umount "$M/var/lib/apt/lists" "$M/var/cache/apt/archives" "$M/dev" "$M/proc"
	rm -rf "$M"/var/log/* "$M"/var/cache/debconf/*-old "$M"/var/lib/dpkg/*-old "$M"/var/cache/apt/*.bin "$M"/tmp/*
	umount "$M"
}
