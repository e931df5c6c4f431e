package main

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxEnvLine = 64 << 10 // docker's limit

// environment is the variables of the files, then the given ones. A name without
// "=" takes its value from this process: in a file it is left out when there is
// none, given with -e it stays a bare name (which unsets the image's).
func environment(files, given []string) ([]string, bool) {
	var env []string
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, false
		}
		vars, ok := parseEnvFile(b, os.LookupEnv)
		if !ok {
			return nil, false
		}
		env = append(env, vars...)
	}
	first := len(env)
	for _, v := range given {
		name, _, has := strings.Cut(v, "=")
		if name == "" {
			return nil, false
		}
		if !has {
			if value, ok := os.LookupEnv(name); ok {
				v = name + "=" + value
			}
		}
		if i := slices.IndexFunc(env[first:], func(o string) bool { return sameName(o, name) }); i >= 0 {
			env[first+i] = v // the last one counts
			continue
		}
		env = append(env, v)
	}
	return env, true
}

func sameName(v, name string) bool {
	rest, ok := strings.CutPrefix(v, name)
	return ok && (rest == "" || rest[0] == '=')
}

// parseEnvFile reads NAME=VALUE lines; blank ones and those with # are comments,
// nothing is quoted or expanded. false = an error that hull-cli explains.
func parseEnvFile(b []byte, lookup func(string) (string, bool)) ([]string, bool) {
	var vars []string
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	for raw := range bytes.SplitSeq(b, []byte{'\n'}) {
		if len(raw) >= maxEnvLine-1 || !utf8.Valid(raw) {
			return nil, false
		}
		line := strings.TrimLeftFunc(strings.TrimSuffix(string(raw), "\r"), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		name, _, has := strings.Cut(line, "=")
		if name == "" || strings.ContainsAny(name, " \t") {
			return nil, false
		}
		if has {
			vars = append(vars, line)
		} else if value, ok := lookup(name); ok {
			vars = append(vars, name+"="+value)
		}
	}
	return vars, true
}
