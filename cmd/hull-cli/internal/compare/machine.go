package compare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"hull/api"
)

// FullVM is the name of a whole virtual machine in a report.
const FullVM = "full vm"

// fullMemory is what a full machine gets, MiB: what distributions ask for at least.
const fullMemory = 1024

// prompt is what a booted system writes on its serial console.
const prompt = "login:"

// fullVM boots a disk image of a distribution, as one does without hull: firmware, a
// boot loader, the distribution's kernel and its services, up to the login prompt on
// the serial console. The image is not written to.
func fullVM(ctx context.Context, info *api.Info, o Options) Figures {
	f := Figures{Isolation: FullVM, Boundary: "a machine of its own from the firmware on, with its own copy of a whole operating system"}
	if err := measureFullVM(ctx, info, o, &f); err != nil {
		f.miss("instance", err)
	}
	return f
}

func measureFullVM(ctx context.Context, info *api.Info, o Options, f *Figures) error {
	size, err := allocated(o.FullVM)
	if err != nil {
		return err
	}
	f.Disk = size
	details := info.Isolations["vm"].Details
	program := details["qemu"]
	if program == "" {
		if program, err = exec.LookPath("qemu-system-" + machineArch()); err != nil {
			return fmt.Errorf("boot %s: install QEMU (Debian: qemu-system-x86): %w", o.FullVM, err)
		}
	}
	accel, _, _ := strings.Cut(details["accelerator"], " ") // and then why
	if accel == "" {
		accel = "tcg"
	}
	boots := 2 // each takes long
	for n := range boots {
		o.Progress("%s: boot %d of %d", FullVM, n+1, boots)
		took, memory, err := bootDisk(ctx, program, accel, o)
		if err != nil {
			return err
		}
		if n == 0 {
			f.FirstBoot = took
		}
		f.Boot, f.Memory = took, memory
	}
	f.OwnKernel, f.Kernel = true, "of "+filepath.Base(o.FullVM)
	f.MemoryAll = f.Memory * int64(max(1, o.Instances)) // nothing is shared but QEMU's text
	for _, what := range []string{"inside", "network"} {
		f.miss(what, errors.New("nobody is logged in"))
	}
	return nil
}

// bootDisk runs one machine until its prompt, and counts its memory there.
func bootDisk(ctx context.Context, program, accel string, o Options) (took time.Duration, memory int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, // #nosec G204: the user's QEMU on the user's image
		"-accel", accel, "-m", fmt.Sprint(fullMemory), "-smp", "2", "-display", "none", "-monitor", "none", "-no-reboot",
		"-serial", "stdio", "-snapshot", "-drive", "if=virtio,file="+strings.ReplaceAll(o.FullVM, ",", ",,"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	console, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	// The death signal is the thread's, not the process's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // it is killed
	}()
	last, err := readUntil(console, prompt)
	took = time.Since(start)
	if err != nil {
		cancel()
		_ = cmd.Wait()
		return 0, 0, fmt.Errorf("wait for %q on the serial console of %s: %w (QEMU says %q, the console ends with %q; the image must have a console on ttyS0)",
			prompt, o.FullVM, errors.Join(err, ctx.Err()), lastLine(said.String()), last)
	}
	select {
	case <-time.After(idle):
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	memory, err = readPSS(cmd.Process.Pid)
	return took, memory, err
}

// readUntil reads up to a text, and returns the last of what came before.
func readUntil(r io.Reader, text string) (string, error) {
	var tail []byte
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		tail = append(tail, buf[:n]...)
		if bytes.Contains(tail, []byte(text)) {
			return "", nil
		}
		tail = tail[max(0, len(tail)-200):]
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return lastLine(string(tail)), err
		}
	}
}

// allocated is what a file takes on disk, bytes: images are sparse.
func allocated(path string) (int64, error) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if !st.Mode().IsRegular() {
		return 0, &fs.PathError{Op: "boot", Path: path, Err: errors.New("want a disk image (raw or qcow2)")}
	}
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512, nil
	}
	return st.Size(), nil
}

func machineArch() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64"
	}
	return "x86_64"
}
