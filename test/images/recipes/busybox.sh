# busybox from Debian's source package with upstream's defaults, static. Debian's
# own busybox-static lacks applets, and its shell runs some without exec.
cd "$WORK"
mkdir -p apt/lists/partial apt/archives/partial
cat > sources.list <<SRC
deb-src http://deb.debian.org/debian bookworm main
SRC
opts="-o Dir::Etc::SourceList=$WORK/sources.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$WORK/apt/lists -o Dir::Cache=$WORK/apt -o APT::Sandbox::User=root"
apt-get $opts -qq update
apt-get $opts -qq --download-only source busybox
mkdir src
tar -xf busybox_*.orig.tar.* -C src --strip-components=1
cd src
make -s defconfig
sed -i 's/.*CONFIG_STATIC is not set.*/CONFIG_STATIC=y/; s/^CONFIG_TC=y/# CONFIG_TC is not set/' .config
yes '' | make -s oldconfig >/dev/null || true
make -s -j"$(nproc)" busybox 2>&1
cd "$ROOT"
mkdir -p bin dev etc home proc root sys usr/bin usr/sbin var/spool/mail var/www
install -d -m 1777 tmp
chmod 700 root
install -m 755 "$WORK/src/busybox" bin/busybox
for applet in $(bin/busybox --list); do
	[ "$applet" = busybox ] || ln bin/busybox "bin/$applet"
done
ln -s ../../bin/env usr/bin/env
install -m 644 "$WORK/busybox.passwd" etc/passwd
install -m 644 "$WORK/busybox.group" etc/group
printf 'root:*:10933:0:99999:7:::\n' > etc/shadow
chmod 600 etc/shadow
