package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
)

// What QEMU calls a machine's things. A disk is a node that stays, with one behind
// it that can be exchanged while the machine runs; the device knows the first only.
func diskName(i int) string    { return "disk" + strconv.Itoa(i) }
func backName(i, n int) string { return fmt.Sprintf("disk%d-%d", i, n) }
func netName(i int) string     { return "net" + strconv.Itoa(i) }
func sinkName(i int) string    { return netName(i) + "-sink" }

// Plug puts f behind disk i of a running machine, in place of what is there; nil =
// nothing, as with Disk.Absent. The guest must not use the disk meanwhile. QEMU has
// f open itself afterwards.
func (m *Machine) Plug(ctx context.Context, i int, f *os.File) error {
	old := m.backs[i]
	m.backs[i]++
	name, set := backName(i, old+1), i<<16+old+1
	back := map[string]any{"driver": "null-co", "node-name": name, "size": int64(DiskSize), "read-zeroes": true, "read-only": m.conf.Disks[i].ReadOnly}
	if f != nil {
		if _, err := m.QMP.doWith(ctx, f, "add-fd", map[string]any{"fdset-id": set}); err != nil {
			return err
		}
		back = map[string]any{"driver": "file", "node-name": name, "filename": fmt.Sprintf("/dev/fdset/%d", set), "read-only": m.conf.Disks[i].ReadOnly, "locking": "off"}
	}
	if _, err := m.QMP.Do(ctx, "blockdev-add", back); err != nil {
		return err
	}
	if f != nil { // the node has one of its own
		if _, err := m.QMP.Do(ctx, "remove-fd", map[string]any{"fdset-id": set}); err != nil {
			return err
		}
	}
	if _, err := m.QMP.Do(ctx, "blockdev-reopen", map[string]any{"options": []any{map[string]any{
		"driver": "raw", "node-name": diskName(i), "file": name, "read-only": m.conf.Disks[i].ReadOnly, "discard": "ignore", "detect-zeroes": "off",
	}}}); err != nil {
		return err
	}
	_, err := m.QMP.Do(ctx, "blockdev-del", map[string]any{"node-name": backName(i, old)})
	return err
}

// PlugNet connects network device i, which is connected to nothing, with a tap.
func (m *Machine) PlugNet(ctx context.Context, i int, tap *os.File) error {
	id := fmt.Sprintf("tap%d", i)
	if err := m.QMP.give(ctx, tap, id); err != nil {
		return err
	}
	if _, err := m.QMP.Do(ctx, "netdev_add", map[string]any{"type": "tap", "id": id, "fd": id, "vhost": false}); err != nil {
		return err
	}
	// What the device is connected to cannot be exchanged, but is a hub.
	if _, err := m.QMP.Do(ctx, "netdev_add", map[string]any{"type": "hubport", "id": netName(i) + "-tap", "hubid": i, "netdev": id}); err != nil {
		return err
	}
	_, err := m.QMP.Do(ctx, "netdev_del", map[string]any{"id": sinkName(i)})
	return err
}

// The virtio-fs device. QEMU gives places from the last one on to devices that are there
// from the start; it has the second when it comes later.
const (
	fsDevice = "vhost-user-fs-device"
	fsBus    = "virtio-mmio-bus.1"
	fsQueue  = 512
)

// plugger is a device of which a machine has nothing but its bus, and pluggerBus its
// place: with ACPI the first one's interrupt does not arrive (QEMU takes it for the
// timer's).
const (
	plugger    = "plugger"
	pluggerBus = "virtio-mmio-bus.0"
)

// ErrPlug is that a QEMU has restored a machine, but cannot plug a device in.
var ErrPlug = errors.New("this QEMU cannot plug a device into a machine")

// PlugFS gives a restored machine its virtio-fs device, of which the program at the
// other end of conn takes care. The guest finds it when it looks there again.
//
// A place for virtio devices takes them from the start only, as nobody has told QEMU
// who handles those that come later; any bus of SCSI or USB devices can, and has
// nothing to do for it. It goes when it has done this, together with its device, which the
// guest does not know of.
func (m *Machine) PlugFS(ctx context.Context, conn *os.File) error {
	const name = "fs"
	if err := m.QMP.give(ctx, conn, name); err != nil {
		return err
	}
	for _, x := range []struct {
		command string
		args    map[string]any
	}{
		{"chardev-add", map[string]any{"id": name, "backend": map[string]any{"type": "socket", "data": map[string]any{
			"addr": map[string]any{"type": "fd", "data": map[string]any{"str": name}}, "server": false,
		}}}},
		{"qom-set", map[string]any{"path": fsBus, "property": "hotplug-handler", "value": plugger + ".0"}},
		{"device_add", map[string]any{"driver": fsDevice, "bus": fsBus, "chardev": name, "queue-size": fsQueue, "tag": m.conf.VirtioFS}},
		{"qom-set", map[string]any{"path": pluggerBus, "property": "hotplug-handler", "value": plugger + ".0"}},
		{"device_del", map[string]any{"id": plugger}},
	} {
		if _, err := m.QMP.Do(ctx, x.command, x.args); err != nil {
			return fmt.Errorf("%w: %w", ErrPlug, err)
		}
	}
	return nil
}
