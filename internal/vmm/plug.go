package vmm

import (
	"context"
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
