//go:build deps

package require

// Modules that packages under construction need; a line goes when the import is real.
import (
	_ "github.com/compose-spec/compose-go/v2/loader"
	_ "github.com/distribution/distribution/v3/registry"
	_ "github.com/docker/compose/v5/pkg/compose"
	_ "github.com/miekg/dns"
	_ "github.com/moby/buildkit/cmd/buildctl/build"
	_ "github.com/moby/buildkit/util/progress/progressui"
)
