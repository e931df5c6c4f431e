package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hull/internal/hull"
	"hull/internal/logs/logfile"
	"maps"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
)

// settings is a log's driver and options, understood.
type settings struct {
	driver   string
	opts     map[string]string
	maxSize  int64 // bytes, -1 = never rotate
	maxFiles int
	compress bool
	noCache  bool // remote drivers: no copy to read back
	mode     string
}

func (s settings) remote() bool { return s.driver == logfile.Journald || s.driver == logfile.Syslog }

// resolveTimeout bounds the look-up of a log server's name when a container starts.
const resolveTimeout = 5 * time.Second

// options are the options of each driver. Those of the files come with every
// driver: for remote ones they are the cache's.
func options(driver string) []string {
	about := []string{"labels", "labels-regex", "env", "env-regex", "tag"}
	cache := []string{"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}
	switch driver {
	case logfile.JSONFile:
		return append(about, "max-size", "max-file", "compress")
	case logfile.Local:
		return append(about, "max-size", "max-file", "compress")
	case logfile.Journald:
		return slices.Concat(about, cache)
	case logfile.Syslog:
		return slices.Concat(about, cache, []string{
			"syslog-address", "syslog-facility", "syslog-format",
			"syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify",
		})
	}
	return nil
}

func (s *Service) settings(l hull.LogSpec) (settings, error) {
	set := settings{driver: l.Driver, opts: l.Options, maxSize: 10 << 20, maxFiles: 3, compress: true}
	if set.driver == "" {
		set.driver = s.driver
	}
	if !slices.Contains(Drivers(), set.driver) {
		return set, invalid("logger: no log driver named '%s' is registered", set.driver)
	}
	if set.driver == logfile.None {
		return set, nil // its options mean nothing
	}
	if set.driver != logfile.JSONFile {
		set.maxSize, set.maxFiles = 20e6, 5 // Docker's defaults
	}
	known := append(options(set.driver), "mode", "max-buffer-size")
	for _, k := range slices.Sorted(maps.Keys(l.Options)) {
		if !slices.Contains(known, k) {
			return set, invalid("unknown log opt '%s' for %s log driver", k, set.driver)
		}
		if err := set.option(k, l.Options[k]); err != nil {
			return set, err
		}
	}
	return set, set.consistent()
}

// option takes one option in.
func (s *settings) option(k, v string) error {
	var err error
	switch strings.TrimPrefix(k, "cache-") {
	case "max-size":
		if v == "-1" {
			s.maxSize = -1
			return nil
		}
		if s.maxSize, err = units.FromHumanSize(v); err != nil || s.maxSize <= 0 {
			return invalid("max-size must be a positive number, not '%s'", v)
		}
	case "max-file":
		if s.maxFiles, err = strconv.Atoi(v); err != nil {
			return invalid("max-file must be a number, not '%s'", v)
		}
		if s.maxFiles < 1 {
			return invalid("max-file cannot be less than 1")
		}
	case "compress":
		if s.compress, err = strconv.ParseBool(v); err != nil {
			return invalid("compress must be true or false, not '%s'", v)
		}
	case "disabled":
		if s.noCache, err = strconv.ParseBool(v); err != nil {
			return invalid("cache-disabled must be true or false, not '%s'", v)
		}
	case "mode":
		if s.mode = v; v != "blocking" && v != "non-blocking" && v != "" {
			return invalid("logger: logging mode not supported: %s", v)
		}
	case "max-buffer-size":
		if _, err := units.RAMInBytes(v); err != nil {
			return invalid("logger: error parsing option max-buffer-size: %s", err)
		}
	case "labels-regex", "env-regex":
		if _, err := regexp.Compile(v); err != nil {
			return invalid("%s: %s", k, err)
		}
	case "tag":
		if _, err := parseTag(v); err != nil {
			return err
		}
	case "syslog-facility":
		_, err = facility(v)
	case "syslog-address":
		_, _, err = syslogAddress(v)
	case "syslog-format":
		if !slices.Contains([]string{"", "rfc3164", "rfc5424", "rfc5424micro"}, v) {
			return invalid("Invalid syslog format")
		}
	}
	return err
}

func (s *settings) consistent() error {
	if s.maxFiles < 2 || s.maxSize <= 0 {
		if s.opts["compress"] != "" && s.compress {
			return invalid("compress cannot be true when max-file is less than 2 or max-size is not set")
		}
		s.compress = false
	}
	if s.opts["max-buffer-size"] != "" && s.mode != "non-blocking" {
		return invalid("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
	}
	return nil
}

// describe fills in what a record says about its container, and what the
// monitor needs to reach a log server.
func (s *settings) describe(c hull.Container, t *hull.LogTarget) error {
	t.Attrs = s.attributes(c)
	text, tagged := s.opts["tag"]
	if !tagged && !s.remote() {
		return nil
	}
	if text == "" {
		text = "{{.ID}}"
	}
	tag, err := tagOf(text, c)
	if err != nil {
		return err
	}
	if !s.remote() {
		if t.Attrs == nil {
			t.Attrs = map[string]string{}
		}
		t.Attrs["tag"] = tag
		return nil
	}
	t.Options = map[string]string{logfile.OptTag: tag}
	if s.driver == logfile.Syslog {
		return s.syslog(t.Options)
	}
	return nil
}

func (s *settings) syslog(o map[string]string) error {
	n, err := facility(s.opts["syslog-facility"])
	if err != nil {
		return err
	}
	o[logfile.OptFacility] = strconv.Itoa(n)
	o[logfile.OptFormat] = s.opts["syslog-format"]
	if o[logfile.OptHostname], err = os.Hostname(); err != nil {
		return fmt.Errorf("syslog: %w", err)
	}
	network, address, err := syslogAddress(s.opts["syslog-address"])
	if err != nil {
		return err
	}
	o[logfile.OptNetwork] = network
	if network == "udp" || network == "tcp" {
		// The monitor has no resolver.
		if address, err = resolve(address); err != nil {
			return err
		}
	}
	o[logfile.OptAddress] = address
	return nil
}

func resolve(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", invalid("syslog address %s: %s", address, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout) // Target has none
	defer cancel()
	ips, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return "", fmt.Errorf("resolve syslog server: %w", err)
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return "", fmt.Errorf("resolve syslog server: %w", err)
	}
	return net.JoinHostPort(ips[0], strconv.Itoa(n)), nil
}

// attributes picks the labels and variables that the options name.
func (s *settings) attributes(c hull.Container) map[string]string {
	out := map[string]string{}
	pick := func(list, re string, have map[string]string) {
		for k := range strings.SplitSeq(s.opts[list], ",") {
			if v, ok := have[k]; ok && k != "" {
				out[k] = v
			}
		}
		if s.opts[re] == "" {
			return
		}
		r, err := regexp.Compile(s.opts[re])
		if err != nil {
			return // checked by option
		}
		for k, v := range have {
			if r.MatchString(k) {
				out[k] = v
			}
		}
	}
	pick("labels", "labels-regex", c.Resolved.Labels)
	env := map[string]string{}
	for _, e := range c.Resolved.Env {
		if k, v, ok := strings.Cut(e, "="); ok {
			env[k] = v
		}
	}
	pick("env", "env-regex", env)
	if len(out) == 0 {
		return nil
	}
	return out
}

// tagInfo is what a tag's template may name; the names are Docker's.
type tagInfo struct {
	ID, FullID, Name, ImageID, ImageFullID, ImageName, DaemonName string
}

func parseTag(text string) (*template.Template, error) {
	t, err := template.New("log-tag").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
		"split": strings.Split, "join": strings.Join, "title": strings.ToTitle,
		"lower": strings.ToLower, "upper": strings.ToUpper,
	}).Parse(text)
	if err == nil {
		err = t.Execute(&bytes.Buffer{}, tagInfo{})
	}
	if err != nil {
		return nil, invalid("error parsing reference: log opt tag: %s", err)
	}
	return t, nil
}

func tagOf(text string, c hull.Container) (string, error) {
	t, err := parseTag(text)
	if err != nil {
		return "", err
	}
	short := func(id string) string { return id[:min(12, len(id))] }
	image := c.Image.ID
	_, digest, ok := strings.Cut(image, ":")
	if !ok {
		digest = image
	}
	var b bytes.Buffer
	err = t.Execute(&b, tagInfo{
		ID: short(c.ID), FullID: c.ID, Name: c.Name, ImageID: short(digest), ImageFullID: image,
		ImageName: c.Image.Name, DaemonName: "docker",
	})
	if err != nil {
		return "", invalid("log opt tag: %s", err)
	}
	return b.String(), nil
}

// syslogAddress splits a URL into network and address.
func syslogAddress(s string) (network, address string, err error) {
	if s == "" {
		return "", "", nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", "", invalid("invalid syslog-address: %s", err)
	}
	switch u.Scheme {
	case "unix", "unixgram":
		if _, err := os.Stat(u.Path); err != nil {
			return "", "", invalid("syslog-address: %s", err)
		}
		return u.Scheme, u.Path, nil
	case "udp", "tcp":
		if u.Hostname() == "" {
			return "", "", invalid("syslog-address %s has no host", s)
		}
		port := u.Port()
		if port == "" {
			port = "514"
		}
		return u.Scheme, net.JoinHostPort(u.Hostname(), port), nil
	case "tcp+tls":
		return "", "", errdefs.ErrNotImplemented.WithMessage("syslog-address: tcp+tls is not supported, use tcp or udp to a local relay")
	}
	return "", "", invalid("unsupported scheme: '%s'", u.Scheme)
}

// facility is the number of a syslog facility, by name or number.
func facility(s string) (int, error) {
	names := []string{
		"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
		"", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
	}
	if s == "" {
		s = "daemon"
	}
	if i := slices.Index(names, s); i >= 0 {
		return i, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n < len(names) {
		return n, nil
	}
	return 0, invalid("invalid syslog facility")
}

func invalid(format string, a ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, a...))
}
