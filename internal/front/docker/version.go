package docker

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// apiVersion is the minor number of a Docker Engine API version (the major one
// is 1 for ever): 44 is "1.44".
type apiVersion int

// The versions served.
const (
	minVersion apiVersion = 40
	maxVersion apiVersion = 55
	// oldVersion is the oldest that may be asked for with Config.MinAPI: what older
	// clients cannot say gets today's answers.
	oldVersion apiVersion = 24
)

// parseMin reads Config.MinAPI.
func parseMin(text string) (apiVersion, error) {
	major, minor, _ := strings.Cut(text, ".")
	v, ok := number(minor)
	if major != "1" || !ok || v < oldVersion || v > maxVersion {
		return minVersion, fmt.Errorf("minimum API version %q: must be between %s and %s: %w", text, oldVersion, maxVersion, errdefs.ErrInvalidArgument)
	}
	return v, nil
}

// versionKey is the path value that holds the version of a request.
const versionKey = "hull-api-version"

func (v apiVersion) String() string { return "1." + strconv.Itoa(int(v)) }

// versionOf is the version a request was made in.
func versionOf(r *http.Request) apiVersion {
	_, minor, _ := strings.Cut(r.PathValue(versionKey), ".")
	n, err := strconv.Atoi(minor)
	if err != nil {
		return maxVersion
	}
	return apiVersion(n)
}

// splitVersion takes "/v1.44" off a path. No prefix means the newest version; one
// older than oldest is refused.
func splitVersion(path string, oldest apiVersion) (string, apiVersion, error) {
	rest, ok := strings.CutPrefix(path, "/v")
	if !ok {
		return path, maxVersion, nil
	}
	text, tail, ok := strings.Cut(rest, "/")
	major, minor, dot := strings.Cut(text, ".")
	if !ok || !dot {
		return path, maxVersion, nil // "/version", "/volumes"
	}
	ma, ok1 := number(major)
	v, ok2 := number(minor)
	if !ok1 || !ok2 {
		return path, maxVersion, nil
	}
	switch {
	case ma < 1 || ma == 1 && v < oldest:
		return "", 0, fmt.Errorf("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version: %w", text, oldest, errdefs.ErrInvalidArgument)
	case ma > 1 || v > maxVersion:
		return "", 0, fmt.Errorf("client version %s is too new. Maximum supported API version is %s: %w", text, maxVersion, errdefs.ErrInvalidArgument)
	}
	return "/" + tail, v, nil
}

// number reads a part of a version.
func number(text string) (apiVersion, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return apiVersion(n), err == nil //nolint:gosec // 16 bits
}
