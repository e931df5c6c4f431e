. "$IN_CHROOT"
packages golang-go golang-github-lib-pq-dev
# The standard library as static programs need it, compiled once: a program that
# is built with CGO_ENABLED=0 waits for its own packages only.
inside env HOME=/root CGO_ENABLED=0 go install std
# What no such build reads.
inside bash -eu <<'IN'
rm -rf /root/.cache
cd /usr/lib/go-1.19/pkg
rm -rf linux_amd64_* linux_*/cmd
cd tool/linux_*
rm -f addr2line api cgo cover dist doc fix nm objdump pprof test2json trace vet
cd /usr/share/go-1.19
rm -rf test api misc src/cmd src/runtime/race
find src -depth -type d -name testdata -exec rm -rf {} +
find src -name '*_test.go' -delete
cd /usr/share/gocode/src
mv github.com/lib /tmp/lib
rm -rf ./*
mkdir github.com
mv /tmp/lib github.com/
IN
finish
