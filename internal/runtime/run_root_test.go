package runtime

import (
	"testing"
)

func TestRun(t *testing.T) {
	r := run(t, testSpec("sh", "-c", "echo hello; hostname; echo $$; echo $HOME; cat /proc/self/status | grep -E 'Cap|Groups'; ls -la /dev /; mount; ls /proc/self/fd -l; exit 7"), overlayOf(t, rootfs(t)), Cgroup{})
	t.Log(r.out, r.status.ExitStatus())
}
