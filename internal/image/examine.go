package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"hull/internal/hull"
	"hull/internal/linux"
)

// Little and hardly any space on the engine's disk, in bytes.
const (
	littleSpace = 2 << 30
	noSpace     = 200 << 20
)

// Examine says what of the host images stand on. root is a directory on the
// engine's file system; it may not be there yet.
func Examine(root string) []hull.Finding {
	for !exists(root) && root != "/" {
		root = filepath.Dir(root)
	}
	return []hull.Finding{examineOverlay(root), examineErofs(), examineSpace(root)}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func examineOverlay(root string) hull.Finding {
	f := hull.Finding{Subject: "overlayfs", Verdict: hull.Fine, Says: "works on " + root}
	if err := tryOverlay(root); err != nil {
		f.Verdict, f.Says, f.Means = hull.Broken, err.Error(), "containers have no root file system"
		f.Next = "load the module overlay, and have " + root + " on ext4, XFS or btrfs (not on another overlay, nor on NFS)"
	}
	return f
}

// tryOverlay mounts one over directories of root, nowhere.
func tryOverlay(root string) (err error) {
	dir, err := os.MkdirTemp(root, ".examine-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var o linux.Overlay
	for name, to := range map[string]*string{"lower": nil, "upper": &o.Upper, "work": &o.Work} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		if to == nil {
			o.Lower = []string{path}
		} else {
			*to = path
		}
	}
	m, err := linux.MountOverlay(o)
	if err != nil {
		return err
	}
	return m.Close()
}

// examineErofs: the module may be there and not loaded, which the first use does.
func examineErofs() hull.Finding {
	f := hull.Finding{Subject: "erofs", Verdict: hull.Fine, Says: "known to the kernel"}
	b, err := os.ReadFile("/proc/filesystems")
	if err == nil && strings.Contains(string(b), "\terofs\n") {
		return f
	}
	f.Says = "not loaded; only machines of --isolation vm need it, and their own kernel has it"
	return f
}

func examineSpace(root string) hull.Finding {
	f := hull.Finding{Subject: "disk space", Verdict: hull.Fine}
	var st syscall.Statfs_t
	if err := syscall.Statfs(root, &st); err != nil {
		f.Verdict, f.Says, f.Means, f.Next = hull.Broken, fmt.Sprintf("look at %s: %v", root, err), "nothing can be stored", "mount the file system"
		return f
	}
	free := int64(st.Bavail) * st.Bsize                                  //nolint:gosec // below 2^63
	f.Says = fmt.Sprintf("%.1f GB free for %s", float64(free)/1e9, root) //nolint:mnd // decimal
	nodes := st.Files > 0 && st.Ffree < st.Files/100                     //nolint:mnd // one in a hundred
	means, next := "images cannot be pulled or built", "hull system prune, or --root on a larger disk"
	switch {
	case free < noSpace:
		f.Verdict, f.Means, f.Next = hull.Broken, means, next
	case free < littleSpace:
		f.Verdict, f.Means, f.Next = hull.Limited, "large "+means, next
	case nodes:
		f.Verdict, f.Means, f.Next = hull.Limited, "few files can be made: "+means, next
		f.Says += fmt.Sprintf(", %d inodes", st.Ffree)
	}
	return f
}
