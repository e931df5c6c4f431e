package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// settings is what the quick verbs need of docker's config.json.
type settings struct {
	PsFormat    string                       `json:"psFormat"`
	DetachKeys  string                       `json:"detachKeys"`
	HTTPHeaders map[string]string            `json:"HttpHeaders"`
	Proxies     map[string]json.RawMessage   `json:"proxies"`
	Plugins     map[string]map[string]string `json:"plugins"`
}

// readSettings reads config.json; false = it is hull-cli's, because it is broken
// or asks for what only hull-cli does.
func readSettings(getenv func(string) string) (settings, bool) {
	var s settings
	dir := getenv("DOCKER_CONFIG")
	if dir == "" {
		home := getenv("HOME")
		if home == "" {
			return s, false
		}
		dir = filepath.Join(home, ".docker")
	}
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return s, true
	}
	if err != nil || json.Unmarshal(b, &s) != nil || len(s.HTTPHeaders) > 0 {
		return s, false
	}
	return s, true
}

// Context is what "hull context use" stored.
func (s settings) Context() string { return s.Plugins["hull"]["context"] }
