package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// applyChanges applies Dockerfile instructions to a configuration
// (docker commit --change, docker import --change).
func applyChanges(c runConfig, changes []string) (runConfig, error) {
	c.Env, c.OnBuild = slices.Clone(c.Env), slices.Clone(c.OnBuild)
	c.Labels, c.Volumes, c.ExposedPorts = maps.Clone(c.Labels), maps.Clone(c.Volumes), maps.Clone(c.ExposedPorts)
	cmd := false
	for _, text := range changes {
		for line := range strings.SplitSeq(text, "\n") {
			if strings.TrimSpace(line) == "" {
				continue
			}
			if err := apply(&c, strings.TrimSpace(line), &cmd); err != nil {
				return c, say(errdefs.ErrInvalidArgument, "change %q: %v", line, err)
			}
		}
	}
	return c, nil
}

// apply makes one change. cmd says whether one before it was CMD.
func apply(c *runConfig, line string, cmd *bool) error {
	verb, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	verb = strings.ToUpper(verb)
	if rest == "" {
		return fmt.Errorf("%s requires at least one argument", verb)
	}
	switch verb {
	case "CMD":
		c.Cmd, *cmd = command(rest), true
	case "ENTRYPOINT":
		c.Entrypoint = command(rest)
		if !*cmd {
			c.Cmd = nil // as a Dockerfile: the old one was the old entrypoint's argument
		}
	case "ENV":
		before := slices.Clone(c.Env) // one instruction sees what was before it
		return pairs(rest, func(k, v string) { c.Env = setEnv(c.Env, k, expand(v, before)) })
	case "LABEL":
		return pairs(rest, func(k, v string) { c.Labels = with(c.Labels, k, expand(v, c.Env)) })
	case "EXPOSE":
		return expose(c, expand(rest, c.Env))
	case "VOLUME":
		list, ok := jsonList(rest)
		if !ok {
			list = strings.Fields(rest)
		}
		for _, v := range list {
			c.Volumes = with(c.Volumes, expand(v, c.Env), struct{}{})
		}
	case "USER":
		c.User = expand(rest, c.Env)
	case "WORKDIR":
		rest = expand(rest, c.Env)
		if !strings.HasPrefix(rest, "/") {
			rest = strings.TrimSuffix(c.WorkingDir, "/") + "/" + rest
		}
		c.WorkingDir = rest
	case "STOPSIGNAL":
		c.StopSignal = expand(rest, c.Env)
	case "ONBUILD":
		c.OnBuild = append(c.OnBuild, rest)
	case "SHELL":
		list, ok := jsonList(rest)
		if !ok {
			return fmt.Errorf("SHELL requires the arguments to be in JSON form")
		}
		c.Shell = list
	case "HEALTHCHECK":
		return healthcheck(c, rest)
	default:
		return fmt.Errorf("%s is not a valid change command", verb)
	}
	return nil
}

// expand puts variables in for $NAME and ${NAME}, with ${NAME:-default} and
// ${NAME:+other}, as a Dockerfile does. A backslash keeps a dollar.
func expand(s string, env []string) string {
	const kept = "\x00" // also of words
	value := func(name string) string {
		for _, kv := range env {
			if k, v, _ := strings.Cut(kv, "="); k == name {
				return v
			}
		}
		return ""
	}
	out := os.Expand(strings.ReplaceAll(s, `\$`, kept), func(name string) string {
		if base, def, ok := strings.Cut(name, ":-"); ok {
			if v := value(base); v != "" {
				return v
			}
			return def
		}
		if base, other, ok := strings.Cut(name, ":+"); ok {
			if value(base) == "" {
				return ""
			}
			return other
		}
		return value(name)
	})
	return strings.ReplaceAll(out, kept, "$")
}

// command is the exec form or the shell form.
func command(rest string) stringList {
	if list, ok := jsonList(rest); ok {
		return list
	}
	return stringList{"/bin/sh", "-c", rest}
}

func jsonList(s string) ([]string, bool) {
	var list []string
	if !strings.HasPrefix(s, "[") || json.Unmarshal([]byte(s), &list) != nil {
		return nil, false
	}
	return list, true
}

func with[V any](m map[string]V, k string, v V) map[string]V {
	if m == nil {
		m = map[string]V{}
	}
	m[k] = v
	return m
}

func setEnv(env []string, k, v string) []string {
	for i, e := range env {
		if name, _, _ := strings.Cut(e, "="); name == k {
			env[i] = k + "=" + v
			return env
		}
	}
	return append(env, k+"="+v)
}

// pairs reads "k=v k2='v 2'", or the old form "k v with blanks".
func pairs(s string, set func(k, v string)) error {
	words, err := words(s)
	if err != nil {
		return err
	}
	if len(words) > 0 && !strings.Contains(words[0], "=") {
		k, v, ok := strings.Cut(s, " ")
		if !ok {
			return fmt.Errorf("%q needs a value", s)
		}
		set(k, strings.TrimSpace(v))
		return nil
	}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return fmt.Errorf("syntax error - can't find = in %q. Must be of the form: name=value", w)
		}
		set(k, v)
	}
	return nil
}

// words splits at blanks outside quotes and takes the quotes off. A dollar that
// stands for itself becomes a zero byte, for expand to make one again.
func words(s string) ([]string, error) {
	var list []string
	var b strings.Builder
	quote, in := rune(0), false
	escaped := false
	for _, r := range s {
		switch {
		case (escaped || quote == '\'') && r == '$':
			b.WriteByte(0) // not for expand
			escaped = false
		case escaped:
			b.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, in = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			b.WriteRune(r)
		case r == '"' || r == '\'':
			quote, in = r, true
		case r == ' ' || r == '\t':
			if in {
				list = append(list, b.String())
				b.Reset()
				in = false
			}
		default:
			b.WriteRune(r)
			in = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("unexpected end of statement while looking for matching %c", quote)
	}
	if in {
		list = append(list, b.String())
	}
	return list, nil
}

// expose reads "80 53/udp 8000-8002/tcp".
func expose(c *runConfig, rest string) error {
	for _, p := range strings.Fields(rest) {
		port, proto, ok := strings.Cut(p, "/")
		if !ok {
			proto = "tcp"
		}
		proto = strings.ToLower(proto)
		if proto != "tcp" && proto != "udp" && proto != "sctp" {
			return fmt.Errorf("invalid proto: %s", proto)
		}
		from, to, ranged := strings.Cut(port, "-")
		if !ranged {
			to = from
		}
		a, err := strconv.ParseUint(from, 10, 16)
		if err != nil {
			return fmt.Errorf("invalid containerPort: %s", p)
		}
		b, err := strconv.ParseUint(to, 10, 16)
		if err != nil || b < a {
			return fmt.Errorf("invalid containerPort: %s", p)
		}
		for n := a; n <= b; n++ {
			c.ExposedPorts = with(c.ExposedPorts, fmt.Sprintf("%d/%s", n, proto), struct{}{})
		}
	}
	return nil
}

// healthcheck reads "[--interval=5s ...] CMD ..." or "NONE".
func healthcheck(c *runConfig, rest string) error {
	h := &health{}
	for strings.HasPrefix(rest, "--") {
		var flag string
		flag, rest, _ = strings.Cut(rest, " ")
		rest = strings.TrimSpace(rest)
		name, value, _ := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
		if name == "retries" {
			n, err := strconv.Atoi(value)
			if err != nil || n < 0 {
				return fmt.Errorf("--retries cannot be %q", value)
			}
			h.Retries = n
			continue
		}
		d, err := time.ParseDuration(value)
		if err != nil {
			return fmt.Errorf("--%s: %w", name, err)
		}
		switch name {
		case "interval":
			h.Interval = d
		case "timeout":
			h.Timeout = d
		case "start-period":
			h.StartPeriod = d
		case "start-interval":
			h.StartInterval = d
		default:
			return fmt.Errorf("unknown flag: %s", name)
		}
	}
	verb, args, _ := strings.Cut(rest, " ")
	args = strings.TrimSpace(args)
	switch strings.ToUpper(verb) {
	case "NONE":
		h.Test = []string{"NONE"}
	case "CMD":
		if list, ok := jsonList(args); ok {
			h.Test = append([]string{"CMD"}, list...)
		} else if args != "" {
			h.Test = []string{"CMD-SHELL", args}
		} else {
			return fmt.Errorf("missing command after HEALTHCHECK CMD")
		}
	default:
		return fmt.Errorf("unknown type %q in HEALTHCHECK (try CMD)", verb)
	}
	c.Healthcheck = h
	return nil
}

// mergeConfig fills what over leaves open from under, as docker commit does.
func mergeConfig(over, under runConfig) runConfig {
	if over.User == "" {
		over.User = under.User
	}
	for p := range under.ExposedPorts {
		over.ExposedPorts = with(over.ExposedPorts, p, struct{}{})
	}
	for v := range under.Volumes {
		over.Volumes = with(over.Volumes, v, struct{}{})
	}
	for _, e := range under.Env {
		k, _, _ := strings.Cut(e, "=")
		if !slices.ContainsFunc(over.Env, func(o string) bool { n, _, _ := strings.Cut(o, "="); return n == k }) {
			over.Env = append(over.Env, e)
		}
	}
	for k, v := range under.Labels {
		if _, ok := over.Labels[k]; !ok {
			over.Labels = with(over.Labels, k, v)
		}
	}
	if len(over.Entrypoint) == 0 {
		if len(over.Cmd) == 0 {
			over.Cmd, over.ArgsEscaped = under.Cmd, under.ArgsEscaped
		}
		if over.Entrypoint == nil {
			over.Entrypoint = under.Entrypoint
		}
	}
	if over.WorkingDir == "" {
		over.WorkingDir = under.WorkingDir
	}
	if over.Healthcheck == nil {
		over.Healthcheck = under.Healthcheck
	}
	if over.StopSignal == "" {
		over.StopSignal = under.StopSignal
	}
	if len(over.Shell) == 0 {
		over.Shell = under.Shell
	}
	if len(over.OnBuild) == 0 {
		over.OnBuild = under.OnBuild
	}
	return over
}
