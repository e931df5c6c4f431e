package vm

import (
	"bytes"
	"fmt"
	"os"

	"hull/internal/guest"
)

// copied is a file of the host that the guest has a copy of.
type copied struct {
	path string
	file guest.File
}

func copies(s Spec) []copied {
	var all []copied
	for i, f := range s.Container.Files {
		if i < len(s.Copied) {
			all = append(all, copied{s.Copied[i], f})
		}
	}
	return all
}

// renewed are those of all that have another content on the host now, which all has
// then, too.
func renewed(all []copied) ([]guest.FileChange, error) {
	var out []guest.FileChange
	for i := range all {
		f := &all[i].file
		data, err := os.ReadFile(all[i].path)
		if err != nil {
			return nil, fmt.Errorf("copy a file to the machine: %w", err)
		}
		if bytes.Equal(data, f.Data) {
			continue
		}
		x := guest.FileChange{Name: f.Name, Data: data}
		if rest, ok := bytes.CutPrefix(data, f.Data); ok { // what the container has changed stays
			x.Data, x.Append = rest, true
		}
		f.Data = data
		out = append(out, x)
	}
	return out, nil
}
