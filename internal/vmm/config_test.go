package vmm

import (
	"slices"
	"strings"
	"testing"
)

func TestArgs(t *testing.T) {
	c := Config{
		QEMU: "/q", Accel: TCG, CPUs: 1, Memory: 256 << 20, Kernel: "/k", Initrd: "/i", Cmdline: "quiet", Name: "a,b",
		Disks:    []Disk{{Path: "/root,1.erofs", Serial: "r", ReadOnly: true}, {Serial: "d", Absent: true}},
		Nets:     []Net{{Mac: "02:00:00:00:00:01", Tap: true}, {Mac: "02:00:00:00:00:02"}},
		VirtioFS: "hull", MemoryFile: "/m", Incoming: true,
	}
	got := strings.Join(Args(c, Descriptors{QMP: 3, Agent: 4, Log: 5, Taps: []int{6}}), " ")
	for _, want := range []string{
		"-name a,,b ", "microvm,rtc=on,isa-serial=on,memory-backend=mem,acpi=off", "-smp 1,maxcpus=2 ", "-accel tcg,thread=multi,tb-size=40",
		"-m 256M", "memory-backend-file,id=mem,size=256M,mem-path=/memory/memory,share=on", "-append quiet -",
		"filename=/root,,1.erofs", "read-only=on", "driver=null-co,node-name=disk1-0", "serial=r,discard=off,write-zeroes=off",
		"tap,id=net0,fd=6,vhost=off", "hubport,id=net1", "virtio-scsi-device,id=plugger,bus=virtio-mmio-bus.0", "elevateprivileges=deny", "-incoming defer",
		"socket,id=agent,fd=4", "name=" + AgentPort,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
	// A template's machine differs from one made of it in its backing only.
	devices := func(c Config) (out []string) {
		a := Args(c, Descriptors{Taps: []int{6}})
		for i, x := range a {
			if x == "-device" {
				out = append(out, a[i+1])
			}
		}
		return out
	}
	c.VirtioFS = ""
	got = strings.Join(Args(c, Descriptors{Taps: []int{6}}), " ")
	for _, want := range []string{"mem-path=/m,share=off", "-append quiet virtio_mmio.device=512@0xfeb00200:6 -"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
	tmpl := c
	tmpl.Incoming, tmpl.MemoryShared = false, true
	tmpl.Disks = []Disk{{Serial: "r", ReadOnly: true, Absent: true}, {Serial: "d", Absent: true}}
	tmpl.Nets = []Net{{Mac: "02:00:00:00:00:01"}, {Mac: "02:00:00:00:00:02"}}
	if a, b := devices(c), devices(tmpl); !slices.Equal(a, b) {
		t.Errorf("devices differ:\n%v\n%v", a, b)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"QMP": {}}`, `{"return": {}}`, `{"error": {"class": "x", "desc": "y"}}`, `{"event": "STOP", "data": {}}`, `[`, `{"error": 1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = parse(b) // must not panic: QEMU may be in the guest's hands
	})
}
