package perf

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"hull/test/harness"
	"hull/test/images"
)

// tenLayers has ten layers of 50 MiB that hardly compress.
const tenLayers = "tenlayers"

// mover is an engine with a registry in its network.
type mover struct {
	*cli
	e     *harness.Engine
	ref   string   // in its registry
	flags []string // of push and pull
}

// imageMoves are load, save, push and pull of ten layers, 500 MiB, and what they
// take on disk.
func imageMoves(b *bench) {
	b.out.text = "An image of ten layers, 500 MiB. The registry is in this program, on each engine's loopback."
	e, hull, docker := b.engine(nil)
	all := []*mover{{cli: hull, e: e}}
	for _, p := range b.peers {
		if p.Engine == nil {
			continue
		}
		m := &mover{cli: &p.cli, e: p.Engine}
		if !p.docker {
			m.flags = []string{"--tls-verify=false"}
		}
		all = append(all, m)
	}
	file := images.Path(b.t, tenLayers)
	floor := b.floorOf(e, file)
	for _, m := range all {
		m.ref = m.e.Registry("", nil) + "/" + tenLayers + ":1"
		b.diskOf(m, file)
	}
	var load, save, push, pull []contender
	for _, m := range all {
		load = append(load, after(m.name, m.forget, func() error { _, err := m.try("load", "-q", "-i", file); return err }))
		save = append(save, after(m.name, nil, func() error {
			cmd := m.cmd("save", images.Ref(tenLayers)) // to nowhere
			var said bytes.Buffer
			cmd.Stderr = &said
			return finish(cmd, &said)
		}))
		push = append(push, after(m.name, func() { _, _ = m.try("tag", images.Ref(tenLayers), m.ref) }, func() error {
			_, err := m.try(append(append([]string{"push", "-q"}, m.flags...), m.ref)...)
			return err
		}))
		pull = append(pull, after(m.name, m.forget, func() error {
			_, err := m.try(append(append([]string{"pull", "-q"}, m.flags...), m.ref)...)
			return err
		}))
	}
	c := contest{unit: "s", limit: 60 * time.Second, cold: true}
	for _, x := range []struct {
		what string
		n    int
		all  []contender
	}{{"load", 3, load}, {"save to nowhere", 3, save}, {"push to an empty registry", 1, push}, {"pull", 3, pull}} {
		c.what, c.n = x.what, x.n
		if x.what == "pull" {
			c.note = fmt.Sprintf("gunzip and tar of the same layers, two at a time: %.3g s", floor)
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", e.Pid()), []byte("5"), 0); err != nil {
				b.t.Fatal(err)
			}
		}
		b.race(c, x.all...)
	}
	b.figure("peak memory in a pull, RSS", "hulld", "MiB", atMost(100), status(b.t, e.Pid(), "VmHWM")/1024, "")
	b.pushAgain(e, docker, all[0].ref)
	for _, m := range all {
		m.forget()
	}
}

// after is a timed contender, in seconds, with something before it that does not count.
func after(who string, before func(), do func() error) contender {
	return contender{who: who, do: func() (float64, error) {
		if before != nil {
			before()
		}
		start := time.Now()
		err := do()
		return time.Since(start).Seconds(), err
	}}
}

// forget removes all of the image.
func (m *mover) forget() { _, _ = m.try("rmi", "-f", m.ref, images.Ref(tenLayers)) }

// pushAgain is a push of what the registry has.
func (b *bench) pushAgain(e *harness.Engine, docker *cli, ref string) {
	requests := 0
	addr := e.Registry("", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests++
			next.ServeHTTP(w, r)
		})
	})
	again := addr + "/" + tenLayers + ":again"
	b.output(docker, "tag", ref, again)
	start := time.Now()
	b.output(docker, "push", "-q", again)
	b.figure("push of what the registry has", "docker on hulld", "s", goal{}, time.Since(start).Seconds(), fmt.Sprintf("%d requests", requests))
	b.output(docker, "rmi", again)
}

// floorOf is seconds for the layers of an archive, unpacked by gzip and tar.
func (b *bench) floorOf(e *harness.Engine, archive string) float64 {
	dir := e.Dir("floor")
	const prepare = `cd "$1" && mkdir a && tar -x -f "$2" -C a && i=0; for f in $(find a -size +1M -type f); do i=$((i+1)); mkdir -p out$i; case $(head -c2 $f | od -An -tx1 | tr -d ' ') in 1f8b) cp $f $i.gz;; *) gzip -1 -n -c $f > $i.gz;; esac; done`
	if out, err := exec.Command("sh", "-c", prepare, "sh", dir, archive).CombinedOutput(); err != nil {
		b.missing("gunzip and tar of the layers", "", fmt.Sprintf("%v: %s", err, lastLine(string(out))))
		return 0
	}
	start := time.Now()
	out, err := exec.Command("sh", "-c", `cd "$1" && ls *.gz | sed 's/.gz//' | xargs -P2 -I{} sh -c 'gzip -dc {}.gz | tar -x -C out{}'`, "sh", dir).CombinedOutput()
	took := time.Since(start).Seconds()
	if err != nil {
		b.missing("gunzip and tar of the layers", "", fmt.Sprintf("%v: %s", err, lastLine(string(out))))
		return 0
	}
	b.figure("unpack: gunzip and tar of the layers, two at a time", "gzip, tar", "s", goal{}, took, "the floor of a pull")
	if err := os.RemoveAll(dir); err != nil {
		b.t.Fatal(err)
	}
	return took
}

// diskOf is what the image takes below an engine's state directory, beside what the
// engine says.
func (b *bench) diskOf(m *mover, archive string) {
	const what = "disk of the image, du"
	before, err := du(m.e.Root)
	if err == nil {
		_, err = m.try("load", "-q", "-i", archive)
	}
	var said string
	if err == nil {
		said, err = m.try("image", "inspect", "-f", "{{.Size}}", images.Ref(tenLayers))
	}
	var now float64
	if err == nil {
		now, err = du(m.e.Root)
	}
	if err != nil {
		b.missing(what, m.name, err.Error())
		return
	}
	var size float64
	_, _ = fmt.Sscan(strings.TrimSpace(said), &size)
	grown := now - before
	b.figure(what, m.name, "MiB", goal{}, grown/(1<<20), fmt.Sprintf("image inspect says %.0f MiB, %.2f of it", size/(1<<20), size/grown))
}

// du is the bytes that the files below a directory have on disk.
func du(dir string) (float64, error) {
	seen := map[uint64]bool{}
	var sum float64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // the engine is at work
			}
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !seen[st.Ino] {
			seen[st.Ino] = true
			sum += float64(st.Blocks) * 512
		}
		return nil
	})
	return sum, err
}
