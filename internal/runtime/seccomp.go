package runtime

import "github.com/opencontainers/runtime-spec/specs-go"

func compileSeccomp(s *specs.LinuxSeccomp) (*Filter, error) { return nil, nil }
