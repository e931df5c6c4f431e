// Package compat runs one table of scenarios through the docker client and
// through hull. With HULL_COMPAT_HOST=unix:///var/run/docker.sock the same table
// runs against a reference engine: that is how we learn that the table is right.
package compat

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"hull/test/harness"
)

// scenario is a list of commands on one engine.
type scenario struct {
	name  string
	steps []step
	// hull is why the reference engine behaves otherwise on purpose; the scenario
	// is then not run against it.
	hull string
}

// step is one command and what must come of it. "$T" is a prefix of its own for
// each run of a scenario, "$DIR" a directory on the host, other variables come
// from save. Expressions are matched against the trimmed output.
type step struct {
	run   string // words; 'quoted' ones may have blanks
	stdin string
	out   string // regular expression for all of stdout; "" = anything
	err   string // regular expression found in stderr; "" = anything
	code  int
	save  string // variable that takes stdout
	wait  bool   // try again until it is as expected, for at most 90 s
	host  func(dir string) error
}

func TestScenarios(t *testing.T) {
	e := harness.Start(t, []string{"busybox"})
	for _, c := range e.Clients() {
		t.Run(c.Name, func(t *testing.T) {
			for i, s := range scenarios() {
				t.Run(s.name, func(t *testing.T) {
					if s.hull != "" && e.Reference() {
						t.Skip(s.hull)
					}
					play(t, e, c.For(t), s, fmt.Sprintf("%s%d", c.Name, i))
				})
			}
		})
	}
}

func play(t *testing.T, e *harness.Engine, c *harness.Client, s scenario, prefix string) {
	dir := e.Dir("compat-" + prefix)
	vars := map[string]string{"T": prefix, "DIR": dir, "$": "$"} // $$ is a dollar
	defer cleanUp(t, e, prefix)
	for i, st := range s.steps {
		if st.host != nil {
			if err := st.host(dir); err != nil {
				t.Fatalf("step %d: %v", i+1, err)
			}
			continue
		}
		args := words(os.Expand(st.run, func(name string) string {
			v, ok := vars[name]
			if !ok {
				t.Fatalf("step %d (%s): variable %s is not set", i+1, st.run, name)
			}
			return v
		}))
		var r harness.Result
		err := fmt.Errorf("not run")
		for deadline := time.Now().Add(90 * time.Second); err != nil && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			r = c.TryStdin(st.stdin, args...)
			if err = st.check(r, vars); !st.wait {
				break
			}
		}
		if err != nil {
			t.Fatalf("step %d: %s %s: %v\nexit code %d\nstdout: %s\nstderr: %s", i+1, c.Name, strings.Join(args, " "), err, r.Code, r.Stdout, r.Stderr)
		}
		if st.save != "" {
			vars[st.save] = strings.TrimSpace(r.Stdout)
		}
	}
}

func (s step) check(r harness.Result, vars map[string]string) error {
	if r.Code != s.code {
		return fmt.Errorf("want exit code %d", s.code)
	}
	expand := func(expr string) string {
		for name, v := range vars {
			if name == "$" {
				continue
			}
			expr = strings.ReplaceAll(expr, "$"+name, regexp.QuoteMeta(v))
		}
		return expr
	}
	if s.out != "" && !regexp.MustCompile(`(?s)^(?:`+expand(s.out)+`)$`).MatchString(strings.TrimSpace(r.Stdout)) {
		return fmt.Errorf("want stdout like %q", expand(s.out))
	}
	if s.err != "" && !regexp.MustCompile(`(?is)`+expand(s.err)).MatchString(r.Stderr) {
		return fmt.Errorf("want stderr like %q", expand(s.err))
	}
	return nil
}

// cleanUp removes what a scenario left, and checks that it leaked nothing.
func cleanUp(t *testing.T, e *harness.Engine, prefix string) {
	docker := e.Docker().For(t)
	remove := func(verb []string, list ...string) {
		if ids := strings.Fields(docker.Run(list...)); len(ids) > 0 {
			docker.Run(append(verb, ids...)...)
		}
	}
	remove([]string{"rm", "-f", "-v"}, "ps", "-aq", "--filter", "name="+prefix+"-")
	remove([]string{"network", "rm"}, "network", "ls", "-q", "--filter", "name="+prefix+"-")
	remove([]string{"volume", "rm"}, "volume", "ls", "-q", "--filter", "name="+prefix+"-")
	for _, ref := range strings.Fields(docker.Run("images", "--format", "{{.Repository}}:{{.Tag}}")) {
		if strings.HasPrefix(ref, prefix+"-") {
			docker.Run("rmi", "-f", ref)
		}
	}
	if !t.Failed() {
		e.CheckLeaks()
	}
}

// words splits a line at blanks, except within '...'.
func words(line string) []string {
	var out []string
	var word strings.Builder
	quoted, started := false, false
	for _, r := range line {
		switch {
		case r == '\'':
			quoted, started = !quoted, true
		case r == ' ' && !quoted:
			if started {
				out = append(out, word.String())
			}
			word.Reset()
			started = false
		default:
			word.WriteRune(r)
			started = true
		}
	}
	if started {
		out = append(out, word.String())
	}
	return out
}
