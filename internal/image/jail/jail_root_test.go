package jail

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"hull/internal/image/archive"
	"hull/internal/image/packed"
	"hull/internal/require"
)

// Without arguments this test's program is the child; by the name "escape" it is
// one that has been taken over.
func TestMain(m *testing.M) {
	if len(os.Args) == 1 {
		if filepath.Base(os.Args[0]) == "escape" {
			escape()
		} else {
			Main()
		}
		return
	}
	os.Exit(m.Run())
}

func unpacker(t *testing.T) *Unpacker {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &Unpacker{Program: self}
}

type entry struct {
	h    tar.Header
	body string
}

func pack(t *testing.T, zip bool, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.h.Size = int64(len(e.body))
		if e.h.Mode == 0 {
			e.h.Mode = 0o755
		}
		if err := w.WriteHeader(&e.h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !zip {
		return b.Bytes()
	}
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	if _, err := zw.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return z.Bytes()
}

func dir(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func file(name, body string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg}, body}
}

// What comes out is what comes out without a jail.
func TestRootSameAsInProcess(t *testing.T) {
	require.Root(t)
	below := dir(t)
	if err := os.MkdirAll(below.Name()+"/opt/kept", 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(below.Name()+"/opt/linked", []byte("from below"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(below.Name()+"/opt/kept", 7, 8); err != nil {
		t.Fatal(err)
	}
	layer := pack(t, true,
		entry{tar.Header{Name: "bin/", Typeflag: tar.TypeDir}, ""},
		entry{tar.Header{Name: "bin/su", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 0, Gid: 5}, "program"},
		entry{tar.Header{Name: "bin/ping", Typeflag: tar.TypeReg, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "SCHILY.xattr.user.x": "y",
		}}, "ping"},
		entry{tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""},
		entry{tar.Header{Name: "home/me", Typeflag: tar.TypeReg, Uid: 1000, Gid: 1000, ModTime: time.Unix(1e9, 0)}, "mine"},
		entry{tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, ""},
		entry{tar.Header{Name: "var/.wh..wh..opq", Typeflag: tar.TypeReg}, ""},
		entry{tar.Header{Name: "etc/.wh.gone", Typeflag: tar.TypeReg}, ""},
		file("opt/kept/new", "in a directory that only the layer below describes"),
		entry{tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "opt/linked"}, ""},
	)
	unpack := func(run func(context.Context, io.Reader, *os.File, archive.Options) (archive.Result, digest.Digest, error)) (string, digest.Digest) {
		root := dir(t)
		o := archive.Options{Packed: true, Lower: func(context.Context) ([]*os.File, error) {
			f, err := os.Open(below.Name())
			return []*os.File{f}, err
		}}
		res, sum, err := run(t.Context(), bytes.NewReader(layer), root, o)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(res, "\n", tree(t, root.Name())), sum
	}
	want, wantSum := unpack(packed.Layer)
	got, gotSum := unpack(unpacker(t).Unpack)
	if got != want || gotSum != wantSum {
		t.Errorf("%s:\n%s\nwant %s:\n%s", gotSum, got, wantSum, want)
	}
	if !strings.Contains(want, "trusted.overlay.opaque") || !strings.Contains(want, "opt/kept d 750 7:8") || !strings.Contains(want, "security.capability") {
		t.Errorf("the layer is too simple:\n%s", want)
	}
}

// tree describes every file below dir.
func tree(t *testing.T, top string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == top {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(top, path)
		kind := map[uint32]string{unix.S_IFDIR: "d", unix.S_IFREG: "f", unix.S_IFLNK: "l", unix.S_IFCHR: "c"}[st.Mode&unix.S_IFMT]
		fmt.Fprintf(&b, "%s %s %o %d:%d %d %x", rel, kind, st.Mode&0o7777, st.Uid, st.Gid, st.Nlink, st.Rdev)
		if kind == "f" {
			c, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q %d", c, st.Mtim.Sec/60*min(1, 1e9/max(1, st.Mtim.Sec))) // times of now differ
		}
		names := make([]byte, 1024)
		n, err := unix.Llistxattr(path, names)
		if err != nil {
			return err
		}
		sorted := strings.Split(string(names[:n]), "\x00")
		slices.Sort(sorted)
		for _, name := range sorted {
			if name != "" {
				v := make([]byte, 256)
				k, err := unix.Lgetxattr(path, name, v)
				fmt.Fprintf(&b, " %s=%q %v", name, v[:max(k, 0)], err)
			}
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Errors keep their kinds on the way out.
func TestRootErrors(t *testing.T) {
	require.Root(t)
	u := unpacker(t)
	run := func(r io.Reader, o archive.Options) error {
		_, _, err := u.Unpack(t.Context(), r, dir(t), o)
		return err
	}
	if err := run(bytes.NewReader(pack(t, false, file("../../etc/x", "x"))), archive.Options{}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "climbs out") {
		t.Errorf("..: %v", err)
	}
	var limit *archive.LimitError
	if err := run(bytes.NewReader(pack(t, false, file("a", ""), file("b", ""))), archive.Options{Limits: archive.Limits{Entries: 1}}); !errors.As(err, &limit) || limit.Limit != 1 || !errdefs.IsResourceExhausted(err) {
		t.Errorf("limit: %v", err)
	}
	whole := pack(t, true, file("a", strings.Repeat("0123456789", 100000)))
	if err := run(bytes.NewReader(whole[:len(whole)/2]), archive.Options{Packed: true}); err == nil {
		t.Error("half a layer")
	}
	broken := errors.New("the registry is gone")
	if err := run(io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), failing{broken}), archive.Options{Packed: true}); !errors.Is(err, broken) {
		t.Errorf("a source that breaks: %v", err)
	}
	o := archive.Options{Lower: func(context.Context) ([]*os.File, error) { return nil, fmt.Errorf("below: %w", errdefs.ErrDataLoss) }}
	if err := run(bytes.NewReader(pack(t, false, file("a/b", "x"))), o); !errdefs.IsDataLoss(err) {
		t.Errorf("lower: %v", err)
	}
	if err := (func() error {
		_, _, err := (&Unpacker{Program: "/no/such"}).Unpack(t.Context(), bytes.NewReader(nil), dir(t), archive.Options{})
		return err
	})(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	f, err := os.Open(small)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	big := make([]byte, 4<<20)
	for i := range big {
		big[i] = byte(i | 1)
	}
	if _, _, err := u.Unpack(t.Context(), bytes.NewReader(pack(t, false, file("big", string(big)))), f, archive.Options{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("full: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// A cancelled context ends the child, and its reader is not needed for that. The
// error is why it was cancelled.
func TestRootCancel(t *testing.T) {
	require.Root(t)
	enough := errors.New("enough")
	for want, cause := range map[error]error{enough: enough, context.Canceled: nil} {
		ctx, cancel := context.WithCancelCause(t.Context())
		r, w := io.Pipe()
		go func() {
			_, _ = w.Write(make([]byte, 512)) // it runs
			cancel(cause)
			_ = w.CloseWithError(want)
		}()
		if _, _, err := unpacker(t).Unpack(ctx, r, dir(t), archive.Options{}); !errors.Is(err, want) {
			t.Errorf("%v: %v", want, err)
		}
	}
}

// escape is the child after a hole in it was found: it has the layer's directory, one
// below and what confine left, and tries to get further. The answer lists where it
// got.
func escape() {
	conn, err := net.FileConn(os.NewFile(control, "control"))
	if err != nil {
		os.Exit(3)
	}
	c, _ := conn.(*net.UnixConn)
	var o order
	var dirs []*os.File
	if err := receive(c, &o, &dirs, 1); err != nil {
		os.Exit(4)
	}
	if !o.Plain { // the control: the same without walls
		if err := confine(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(5)
		}
	}
	root, err := reopen(dirs[0])
	if err != nil {
		os.Exit(6)
	}
	below, err := askLower(c)
	if err != nil || len(below) != 1 {
		os.Exit(7)
	}
	var out []string
	try := func(what string, err error) {
		if err == nil {
			out = append(out, what)
		}
	}
	open := func(dirfd int, path string, flags int) error {
		fd, err := unix.Openat(dirfd, path, flags, 0o600)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	try("host file", open(unix.AT_FDCWD, "/etc/passwd", unix.O_RDONLY))
	up := strings.Repeat("../", 20)
	try("up", open(int(root.Fd()), up+"etc/passwd", unix.O_RDONLY))
	try("up from below", open(int(below[0].Fd()), up+"etc/passwd", unix.O_RDONLY))
	try("write below", open(int(below[0].Fd()), "new", unix.O_CREAT|unix.O_WRONLY))
	try("own root", open(unix.AT_FDCWD, "/new", unix.O_CREAT|unix.O_WRONLY))
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.Close(fd)
	}
	try("socket", err)
	try("mount", unix.Mount("tmpfs", "/proc/self/fd/"+fmt.Sprint(root.Fd()), "tmpfs", 0, ""))
	try("namespace", unix.Unshare(unix.CLONE_NEWUTS))
	try("signal", unix.Kill(1, 0))
	_, err = os.StartProcess("/proc/self/exe", []string{"x", "-test.run=^$"}, &os.ProcAttr{})
	try("program", err)
	_, _, e := unix.Syscall(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0)
	if e == 0 {
		try("ptrace", nil)
	}
	try("host name", unix.Sethostname([]byte("x")))
	_ = send(c, answer{Failure: &failure{Message: strings.Join(out, ", ")}})
}

// A child that was taken over gets nowhere; the control without walls does.
func TestRootEscape(t *testing.T) {
	require.Root(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "escape")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	run := func(o archive.Options) string {
		o.Lower = func(context.Context) ([]*os.File, error) {
			f, err := os.Open(t.TempDir())
			return []*os.File{f}, err
		}
		_, _, err := (&Unpacker{Program: program}).Unpack(t.Context(), bytes.NewReader(nil), dir(t), o)
		if err == nil {
			return ""
		}
		return err.Error()
	}
	if got := run(archive.Options{}); got != "" {
		t.Errorf("it got to: %s", got)
	}
	if got := run(archive.Options{Plain: true}); !strings.Contains(got, "host file") || !strings.Contains(got, "socket") || !strings.Contains(got, "program") {
		t.Errorf("the control finds no more than %q", got)
	}
}
