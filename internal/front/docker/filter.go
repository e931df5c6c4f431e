package docker

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// filters is the "filters" query parameter: term to values, any of which
// satisfies the term.
type filters map[string]map[string]bool

// The terms each list knows; another one is an error that names it.
//
//nolint:gochecknoglobals // tables
var (
	containerFilters = []string{
		"ancestor", "annotation", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name",
		"network", "publish", "since", "status", "volume",
	}
	pruneFilters       = []string{"label", "label!", "until"}
	imageFilters       = []string{"before", "dangling", "label", "reference", "since", "until"}
	imagePruneFilters  = []string{"dangling", "label", "label!", "until"}
	volumeFilters      = []string{"dangling", "driver", "label", "name"}
	volumePruneFilters = []string{"all", "label", "label!"}
	networkFilters     = []string{"dangling", "driver", "id", "label", "name", "scope", "type"}
)

// parseFilters reads the parameter; values come as {"a":{"x":true}} or, from
// old clients, {"a":["x"]}.
func parseFilters(text string, known []string) (filters, error) {
	f := filters{}
	if text == "" {
		return f, nil
	}
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		f = filters{}
		var old map[string][]string
		if json.Unmarshal([]byte(text), &old) != nil {
			return nil, invalid("invalid filter")
		}
		for term, values := range old {
			f[term] = map[string]bool{}
			for _, v := range values {
				f[term][v] = true
			}
		}
	}
	for _, term := range slices.Sorted(maps.Keys(f)) {
		if known != nil && !slices.Contains(known, term) {
			return nil, invalid("invalid filter '%s'", term)
		}
	}
	return f, nil
}

// values of a term, sorted. A value marked false is not set.
func (f filters) values(term string) []string {
	var out []string
	for v, on := range f[term] {
		if on {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return out
}

// exact says whether the term is absent or names value.
func (f filters) exact(term, value string) bool {
	return len(f[term]) == 0 || f[term][value]
}

// flag reads a term that is true or false; def when it is absent.
func (f filters) flag(term string, def bool) (bool, error) {
	v := f.values(term)
	if len(v) == 0 {
		return def, nil
	}
	switch {
	case len(v) == 1 && (v[0] == "1" || v[0] == "true"):
		return true, nil
	case len(v) == 1 && (v[0] == "0" || v[0] == "false"):
		return false, nil
	}
	return false, invalid("invalid filter '%s=%v'", term, v)
}

// single is a term that may be given once.
func (f filters) single(term string) (string, error) {
	v := f.values(term)
	switch len(v) {
	case 0:
		return "", nil
	case 1:
		return v[0], nil
	}
	return "", invalid("more than one %s filter specified", term)
}

// labels says whether l has every label of "label" and none of "label!".
func (f filters) labels(l map[string]string) bool {
	for _, kv := range f.values("label") {
		if !hasLabel(l, kv) {
			return false
		}
	}
	for _, kv := range f.values("label!") {
		if hasLabel(l, kv) {
			return false
		}
	}
	return true
}

func hasLabel(l map[string]string, kv string) bool {
	key, want, withValue := strings.Cut(kv, "=")
	have, ok := l[key]
	return ok && (!withValue || have == want)
}

// matcher compiles a term whose values are regular expressions; a value that
// does not compile matches only itself.
func (f filters) matcher(term string) func(string) bool {
	values := f.values(term)
	if len(values) == 0 {
		return func(string) bool { return true }
	}
	var exps []*regexp.Regexp
	for _, v := range values {
		if e, err := regexp.Compile(v); err == nil {
			exps = append(exps, e)
		}
	}
	return func(s string) bool {
		return slices.Contains(values, s) || slices.ContainsFunc(exps, func(e *regexp.Regexp) bool { return e.MatchString(s) })
	}
}

// until reads the time of an "until" term, zero when absent.
func (f filters) until(now time.Time) (time.Time, error) {
	v, err := f.single("until")
	if err != nil || v == "" {
		return time.Time{}, err
	}
	return parseTime(v, now)
}

// untils is until where several may be given: the earliest of them.
func (f filters) untils(now time.Time) (time.Time, error) {
	var first time.Time
	for _, v := range f.values("until") {
		t, err := parseTime(v, now)
		if err != nil {
			return t, err
		}
		if first.IsZero() || t.Before(first) {
			first = t
		}
	}
	return first, nil
}

// timeLayouts are the date forms Docker takes, local time where no zone is said.
//
//nolint:gochecknoglobals // a table
var timeLayouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15",
	"2006-01-02Z07:00", "2006-01-02", "2006-01-02T15:04Z07:00", "2006-01-02T15Z07:00",
}

// parseTime reads a Unix time ("1136073845.000000001"), a date, or how long ago
// ("10m").
func parseTime(text string, now time.Time) (time.Time, error) {
	if t, ok := unixTime(text); ok { // 0 as well, which would be a duration, too
		return t, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, invalid("failed to parse value as time or duration: %q", text)
}

// unixTime reads seconds with up to nine decimals.
func unixTime(text string) (time.Time, bool) {
	sec, frac, _ := strings.Cut(text, ".")
	s, err := strconv.ParseInt(sec, 10, 64)
	if err != nil || len(frac) > 9 || s > 1<<40 || s < -1<<40 {
		return time.Time{}, false
	}
	if frac == "" {
		return time.Unix(s, 0), true
	}
	n, err := strconv.ParseUint(frac+strings.Repeat("0", 9-len(frac)), 10, 32)
	if err != nil {
		return time.Time{}, false
	}
	return time.Unix(s, int64(n)), true
}

// timeQuery reads since or until of logs: zero when absent or 0.
func timeQuery(text string, now time.Time) (time.Time, error) {
	if text == "" || text == "0" || text == "0.000000000" {
		return time.Time{}, nil
	}
	return parseTime(text, now)
}
