package build

import (
	"strings"
	"testing"

	"hull/api"
)

func TestDrift(t *testing.T) {
	t.Parallel()
	a, b := api.BuildSource{URI: "a", Digest: "sha256:1"}, api.BuildSource{URI: "b", Digest: "sha256:2"}
	if err := drift([]api.BuildSource{b, a}, []api.BuildSource{a, b}); err != nil {
		t.Errorf("the same in another order: %v", err)
	}
	for want, x := range map[string][2][]api.BuildSource{
		"a was sha256:1 and is sha256:3": {{a}, {{URI: "a", Digest: "sha256:3"}}},
		"b is not in the lock file":      {{a}, {a, b}},
		"b is in the lock file and no":   {{a, b}, {a}},
	} {
		err := drift(x[0], x[1])
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}
