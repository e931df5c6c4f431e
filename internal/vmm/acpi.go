package vmm

import "encoding/binary"

// ACPIPlace is an ACPI table that tells a kernel of the virtio-fs device's place (see
// PlugFS) where it believes such tables only: QEMU's name places that have a device
// from the start. Linux takes it from its initramfs, as ACPIPlaceFile.
func ACPIPlace() []byte {
	const (
		base, size, irq = 0xfeb00200, 512, 25 // of fsBus, on a microvm with ACPI
		header          = 36
	)
	le := binary.LittleEndian
	place := []byte{0x86, 9, 0, 1} // Memory32Fixed, writable
	place = le.AppendUint32(le.AppendUint32(place, base), size)
	place = append(place, 0x89, 6, 0, 1, 1) // Interrupt: consumer, level, high, exclusive
	place = append(le.AppendUint32(place, irq), 0x79, 0)
	device := aml([]byte{0x5b, 0x82}, []byte("HULL"), // Device (HULL)
		[]byte("\x08_HID\x0dLNRO0005\x00"), // what QEMU's virtio-mmio is
		[]byte("\x08_UID\x0bHU"),
		[]byte("\x08_CRS"), aml([]byte{0x11}, []byte{0x0a, byte(len(place))}, place)) // a buffer
	body := aml([]byte{0x10}, []byte("\\_SB_"), device) // Scope (\_SB)
	t := le.AppendUint32([]byte("SSDT"), uint32(header+len(body)))
	t = append(t, 2, 0)                // revision, checksum
	t = append(t, "HULL  HULLFS  "...) // who made it, and what it is
	t = le.AppendUint32(t, 1)
	t = append(t, "HULL"...)
	t = append(le.AppendUint32(t, 1), body...)
	var sum byte
	for _, b := range t {
		sum += b
	}
	t[9] = -sum
	return t
}

// ACPIPlaceFile is where Linux looks for ACPI tables in its initramfs.
const ACPIPlaceFile = "kernel/firmware/acpi/hull.aml"

// aml is an operation of ACPI's byte code: its code, the length of what follows, counted
// with itself, and that.
func aml(op []byte, parts ...[]byte) []byte {
	n := 2
	for _, p := range parts {
		n += len(p)
	}
	out := append(op, 1<<6|byte(n&0xf), byte(n>>4)) // a length in two bytes
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
