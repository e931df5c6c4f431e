package compare

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hull/api"
)

func TestRate(t *testing.T) {
	for out, want := range map[string]struct {
		v    float64
		unit string
	}{
		"GET: rps=0.0 (overall: 100.0)\rGET: 43290.04 requests per second, p50=0.551 msec\n": {43290.04, "requests/s"},
		"latency average = 0.9 ms\ntps = 1097.451 (without initial connection time)\n":       {1097.451, "transactions/s"},
		"Requests/sec:  12,345.6\nTransfer/sec: 1MB\n":                                       {12345.6, "requests/s"},
		"Requests per second:    99.5 [#/sec] (mean)\n":                                      {99.5, "requests/s"},
		"    transactions:                        1500   (149.95 per sec.)\n":                {149.95, "per second"},
		"SET: 10 requests per second\nGET: 20 requests per second\n":                         {20, "requests/s"},
	} {
		v, unit, ok := Rate(out)
		if !ok || v != want.v || unit != want.unit {
			t.Errorf("%q: %v %q %v", out, v, unit, ok)
		}
	}
	for _, out := range []string{"", "done in 3 seconds", "tps = many", "1 request"} {
		if v, unit, ok := Rate(out); ok {
			t.Errorf("%q: %v %q", out, v, unit)
		}
	}
}

// A program's name may look like the fields after it.
func TestParseStat(t *testing.T) {
	p, ok := parseStat([]byte("12 (a) R 1 (b)) S 7 12 12 0"))
	if !ok || p.parent != 7 || p.comm != "a) R 1 (b)" {
		t.Errorf("%+v %v", p, ok)
	}
	for _, s := range []string{"", "12", "12 (a", "12 (a)", "12 (a) S", "12 (a) S x"} {
		if p, ok := parseStat([]byte(s)); ok {
			t.Errorf("%q: %+v", s, p)
		}
	}
}

func TestProcessTree(t *testing.T) {
	table := processTable{1: {comm: "init"}, 5: {comm: monitor, parent: 1}, 6: {comm: "qemu", parent: 5}, 7: {comm: "x", parent: 6}, 8: {comm: "y", parent: 1}}
	if top, err := table.monitorOf(7); err != nil || top != 5 {
		t.Errorf("%d %v", top, err)
	}
	for _, pid := range []int{8, 1, 0, -1, 99} {
		if top, err := table.monitorOf(pid); err == nil {
			t.Errorf("%d: %d", pid, top)
		}
	}
	self := os.Getpid()
	if n, err := (processTable{}).pss(self); err != nil || n < 1<<20 {
		t.Errorf("this process: %d bytes %v", n, err)
	}
}

func TestChoose(t *testing.T) {
	info := &api.Info{Isolations: map[string]api.Isolation{
		"vm": {Available: true}, "container": {Available: true}, "sandbox": {Reason: "no runsc"},
	}}
	got, err := choose(info, nil)
	if err != nil || strings.Join(got, " ") != "container vm" {
		t.Errorf("%v %v", got, err)
	}
	got, err = choose(info, []string{"vm"})
	if err != nil || strings.Join(got, " ") != "vm" {
		t.Errorf("%v %v", got, err)
	}
	for _, want := range []string{"sandbox", "jail"} {
		if got, err := choose(info, []string{"vm", want}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v %v", want, got, err)
		}
	}
}

func TestRecommend(t *testing.T) {
	cheap := Figures{Isolation: "container", Boot: time.Millisecond, Memory: 1 << 20}
	good := Figures{Isolation: "vm", Boot: 200 * time.Millisecond, Memory: 90 << 20}
	slow := Figures{Isolation: "vm", Boot: 9 * time.Second, Memory: 90 << 20}
	partly := good
	partly.miss("network", errors.New("x"))
	for _, x := range []struct {
		figures []Figures
		want    string
	}{
		{[]Figures{cheap, good}, "vm for what you do not"},
		{[]Figures{cheap, slow}, "recommended: container; a stronger"},
		{[]Figures{cheap, partly}, "recommended: container; a stronger"},
		{[]Figures{cheap}, "only container was measured"},
		{[]Figures{cheap, {Isolation: FullVM, Boot: time.Minute}}, "only container was measured"},
		{[]Figures{{Isolation: "container"}}, "no isolation ran"},
	} {
		if got := (&Report{Figures: x.figures}).Recommend(); !strings.Contains(got, x.want) {
			t.Errorf("%q does not say %q", got, x.want)
		}
	}
}

// A program in QEMU's place: what counts is the prompt on its output.
func TestFullVM(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(disk, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(script string, patience time.Duration) Figures {
		qemu := filepath.Join(dir, "qemu")
		if err := os.WriteFile(qemu+".new", []byte("#!/bin/sh\n[ \"$1 $2\" = '-accel tcg' ] || exit 2\n"+script), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
		if err := os.Rename(qemu+".new", qemu); err != nil {
			t.Fatal(err)
		}
		info := &api.Info{Isolations: map[string]api.Isolation{"vm": {Details: map[string]string{"qemu": qemu, "accelerator": "tcg (KVM, it is said, = no)"}}}}
		return fullVM(t.Context(), info, Options{FullVM: disk, Patience: patience, Instances: 10, Progress: func(string, ...any) {}})
	}
	f := run(`printf 'booting\nDebian GNU/Linux 12 ttyS0\n\nhost log'; printf 'in: '; exec sleep 100`, time.Minute)
	if f.Boot <= 0 || f.FirstBoot <= 0 || f.Memory <= 0 || f.MemoryAll != 10*f.Memory || f.Disk != 8192 || !f.OwnKernel {
		t.Errorf("%+v", f)
	}
	f = run(`echo 'no bootable device' >&2; echo grub; exit 1`, time.Minute)
	if why := f.Missing["instance"]; f.Boot != 0 || !strings.Contains(why, "no bootable device") || !strings.Contains(why, "grub") {
		t.Errorf("%+v", f)
	}
	f = run(`exec sleep 100`, 200*time.Millisecond)
	if why := f.Missing["instance"]; !strings.Contains(why, "deadline") {
		t.Errorf("%+v", f)
	}
	f = fullVM(t.Context(), &api.Info{}, Options{FullVM: dir})
	if why := f.Missing["instance"]; !strings.Contains(why, "disk image") {
		t.Errorf("%+v", f)
	}
}

func TestFirstLine(t *testing.T) {
	frame := func(stream byte, s string) string {
		return string([]byte{stream, 0, 0, 0, 0, 0, 0, byte(len(s))}) + s
	}
	got, err := firstLine(strings.NewReader(frame(1, "up Li") + frame(1, "nux 6\nmore") + frame(1, "x")))
	if err != nil || got != "up Linux 6" {
		t.Errorf("%q %v", got, err)
	}
	if got, err := firstLine(strings.NewReader(frame(2, "exec format error"))); err == nil || got != "exec format error" {
		t.Errorf("%q %v", got, err)
	}
}

// What could not be measured is named, in the table and in the drawing.
func TestReport(t *testing.T) {
	r := &Report{Image: "redis", Host: "h", ImageSize: 130 << 20, Instances: 10, Command: []string{"redis-benchmark", "<&>"}, Figures: []Figures{
		{Isolation: "container", Boundary: "namespaces", Kernel: "Linux 6", Boot: 20 * time.Millisecond, Memory: 5 << 20, Load: 43290, LoadUnit: "requests/s"},
		{Isolation: "vm", Kernel: "Linux 7", OwnKernel: true},
	}}
	r.Figures[1].miss("disk", errors.New("no answer"))
	if got := (&Report{Command: []string{"sh", "-c", strings.Repeat("ä", 100)}}).commandText(); len([]rune(got)) != 40 || !strings.HasSuffix(got, "ä…") {
		t.Errorf("a long command: %q", got)
	}
	var b bytes.Buffer
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CONTAINER", "20 ms", "5MiB", "43290 requests/s", "the host's: Linux 6", "its own: Linux 7", "vm: disk not measured: no answer", "container: namespaces"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	b.Reset()
	if err := r.WritePlot(&b); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(&b); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	j, err := json.Marshal(r)
	if err != nil || !bytes.Contains(j, []byte(`"boot_ns":20000000`)) {
		t.Errorf("%s %v", j, err)
	}
}
