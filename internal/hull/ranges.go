package hull

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Range is the numbers from First to Last, of processors or memory nodes.
type Range struct{ First, Last int }

// ParseRanges parses the kernel's list format, which Resources.CpusetCpus and
// CpusetMems have: "0-2,7".
func ParseRanges(list string) ([]Range, error) {
	var out []Range
	for part := range strings.SplitSeq(list, ",") {
		from, to, dash := strings.Cut(part, "-")
		if !dash {
			to = from
		}
		a, err := strconv.ParseUint(from, 10, 16)
		if err != nil {
			return nil, err
		}
		b, err := strconv.ParseUint(to, 10, 16)
		if err != nil {
			return nil, err
		}
		if b < a {
			return nil, fmt.Errorf("range %s ends before it begins: %w", part, errdefs.ErrInvalidArgument)
		}
		out = append(out, Range{int(a), int(b)})
	}
	return out, nil
}
