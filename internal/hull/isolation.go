package hull

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// ParseIsolation reads what users say: "" is the engine's default, and "process"
// Docker's word for a plain container.
func ParseIsolation(text string) (Isolation, error) {
	switch v := strings.ToLower(text); v {
	case "", "default":
		return "", nil
	case "process", string(IsolationContainer):
		return IsolationContainer, nil
	case string(IsolationSandbox), string(IsolationVM):
		return Isolation(v), nil
	}
	return "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid isolation %q: must be one of default, container, process, sandbox, vm", text))
}
