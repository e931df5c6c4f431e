package volume

import (
	"os"
	"os/exec"
	"path/filepath"

	"hull/internal/hull"
	"hull/internal/linux"
)

// Examine says how volumes on the engine's file system can be bounded. root may not
// be there yet.
func Examine(root string) []hull.Finding {
	f := hull.Finding{Subject: "sized volumes", Verdict: hull.Fine, Says: "by project quota"}
	dir, err := os.Open(root)
	for err != nil && root != "/" {
		root = filepath.Dir(root)
		dir, err = os.Open(root)
	}
	if err == nil {
		defer dir.Close()
		if linux.HasQuota(dir) {
			return []hull.Finding{f}
		}
	}
	f.Says = "as file systems in files: " + root + " has no project quota"
	if _, err := exec.LookPath("mke2fs"); err != nil {
		f.Verdict, f.Says, f.Means = hull.Limited, root+" has no project quota, and there is no mke2fs", "volume create --opt size= and --storage-opt size= are refused"
		f.Next = "install e2fsprogs, or mount the file system with prjquota"
	}
	return []hull.Finding{f}
}
