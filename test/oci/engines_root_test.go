package oci

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hull/internal/require"
	"hull/test/images"
)

// script runs a shell script in mount and network namespaces of its own, and gives
// its output.
func script(t *testing.T, text string, env ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "-m", "-n", "sh", "-c", text)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), append(env, "DIR="+cmd.Dir, "RUNTIME="+runtimeUnderTest(t), "IMAGE="+images.Path(t, "busybox"))...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return string(out)
}

// want looks for lines in order.
func want(t *testing.T, out string, lines ...string) {
	t.Helper()
	rest := out
	for _, l := range lines {
		_, after, ok := strings.Cut(rest, l)
		if !ok {
			t.Fatalf("%q is missing, or not in its place, in\n%s", l, out)
		}
		rest = after
	}
}

func TestRootContainerd(t *testing.T) {
	require.Root(t)
	require.Program(t, "containerd")
	require.Program(t, "ctr")
	name := "hulloci-" + filepath.Base(t.TempDir())
	out := script(t, `
cat > config.toml <<END
version = 2
root = "$DIR/root"
state = "$DIR/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$DIR/c.sock"
[ttrpc]
  address = "$DIR/c.ttrpc"
END
ip link set lo up
containerd -c config.toml > log 2>&1 & daemon=$!
ctr() { command ctr -a "$DIR/c.sock" "$@"; }
for i in $(seq 600); do ctr version > /dev/null 2>&1 && break; sleep 0.1; done
ctr images import "$IMAGE" > /dev/null
image=$(ctr images ls -q | head -n 1)
flags="--snapshotter native --runc-binary $RUNTIME --runc-root $DIR/runc"
ctr run --rm $flags "$image" "$NAME-1" echo run says hello
ctr run -d $flags "$image" "$NAME-2" sleep 600
ctr task exec --exec-id e "$NAME-2" sh -c 'echo exec says hello; exit 3'; echo exit $?
ctr task pause "$NAME-2"; ctr task ls
ctr task resume "$NAME-2"; ctr task ls
ctr task metrics "$NAME-2"
ctr task kill -s KILL "$NAME-2"
for i in $(seq 600); do ctr task ls | grep -q STOPPED && break; sleep 0.1; done
ctr task rm "$NAME-2"; ctr containers rm "$NAME-2"; echo left: $(ctr task ls -q)
kill $daemon; wait $daemon; true
`, "NAME="+name)
	want(t, out, "run says hello\n", "exec says hello\n", "exit 3\n", "PAUSED", "RUNNING", "memory.usage_in_bytes", "left:\n")
}

func TestRootPodman(t *testing.T) {
	require.Root(t)
	require.Program(t, "podman")
	out := script(t, `
ip link set lo up
mount -t tmpfs tmpfs /run
mkdir tmp
podman() {
  command podman --root "$DIR/root" --runroot "$DIR/run" --tmpdir "$DIR/tmp" --storage-driver vfs \
    --cgroup-manager cgroupfs --events-backend file --runtime "$RUNTIME" "$@"
}
podman load -q -i "$IMAGE" > /dev/null
image=$(podman images -q | head -n 1)
podman run --rm --network none "$image" echo run says hello
podman run -d --name c --network none --memory 64m --pids-limit 50 "$image" sleep 600 > /dev/null
podman exec c sh -c 'echo exec says hello; exit 3'; echo exit $?
podman exec -u 1000 -w /tmp -e A=b c sh -c 'echo $(pwd) $(id -u) $A'
podman pause c > /dev/null; podman inspect --format 'is {{.State.Status}}' c
podman unpause c > /dev/null; podman inspect --format 'is {{.State.Status}}' c
podman kill c > /dev/null; echo wait $(podman wait c)
podman rm c > /dev/null; echo left: $(podman ps -aq)
`)
	want(t, out, "run says hello\n", "exec says hello\n", "exit 3\n", "/tmp 1000 b\n", "is paused\n", "is running\n", "wait 137\n", "left:\n")
}
