// Command hull-runc is an OCI runtime with runc's command line, over
// internal/runtime: containerd, CRI-O, Podman and the public test suites can use
// it where they use runc. Its messages are runc's where programs read them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"

	"hull/internal/linux"
)

// version and commit are set by the linker.
//
//nolint:gochecknoglobals // -ldflags -X needs variables
var version, commit = "dev", "unknown"

// release is our version as clients parse it: three numbers come first.
const release = "0.1.0"

// app is one invocation.
type app struct {
	root    string // state of all containers
	rootSet bool   // by the user
	log     logger
	out     io.Writer
}

// exitError ends the program with a code and no message: the workload's.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// execFailed ends the program with runc's code for an exec that did not come
// about.
type execFailed struct{ error }

func (e execFailed) Unwrap() error { return e.error }

// command is one verb.
type command struct {
	name, usage, help string
	reexec            bool // makes processes in containers: see linux.ReexecReadOnly
	run               func(a *app, ctx context.Context, c *command, args []string) error
}

func commands() []command {
	return []command{
		{"checkpoint", "ID", "not supported: this runtime has no CRIU support", false, (*app).unsupported},
		{"create", "[flags] ID", "create a container; it waits for start", true, (*app).create},
		{"delete", "[flags] ID", "remove what a stopped container holds", false, (*app).delete},
		{"events", "[flags] ID", "print statistics and out of memory events", false, (*app).events},
		{"exec", "[flags] ID COMMAND [ARG...] | -p process.json ID", "run another process in a container", true, (*app).exec},
		{"features", "", "say what this runtime can do, as JSON", false, (*app).features},
		{"kill", "[flags] ID [SIGNAL]", "send a signal (SIGTERM) to the container's process", false, (*app).kill},
		{"list", "[flags]", "list containers", false, (*app).list},
		{"pause", "ID", "freeze a container", false, (*app).pause},
		{"ps", "[flags] ID [ps options]", "list the processes of a container", false, (*app).ps},
		{"restore", "[flags] ID", "not supported: this runtime has no CRIU support", false, (*app).unsupported},
		{"resume", "ID", "let a frozen container go on", false, (*app).resume},
		{"run", "[flags] ID", "create and start a container", true, (*app).run},
		{"spec", "[flags]", "write a config.json to start from", false, (*app).spec},
		{"start", "ID", "run the process of a created container", false, (*app).start},
		{"state", "ID", "print the state of a container", false, (*app).state},
		{"update", "[flags] ID", "change limits", false, (*app).update},
	}
}

func main() {
	a := &app{out: os.Stdout}
	err := a.main(os.Args[1:])
	var code exitError
	var failed execFailed
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
	case errors.As(err, &code):
		os.Exit(int(code))
	case errors.As(err, &failed):
		a.log.fatal(err)
		os.Exit(255)
	default:
		a.log.fatal(err)
		os.Exit(1)
	}
}

func (a *app) main(args []string) error {
	fs := flag.NewFlagSet("hull-runc", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	var logFile, logFormat string
	fs.StringVar(&a.root, "root", defaultRoot(), "directory for the state of containers")
	fs.StringVar(&logFile, "log", "", "file for the log, default standard error")
	fs.StringVar(&logFormat, "log-format", "text", "text or json")
	debug := fs.Bool("debug", false, "log what is done")
	fs.String("criu", "", "accepted for runc's sake")
	fs.String("rootless", "auto", "accepted for runc's sake")
	systemd := fs.Bool("systemd-cgroup", false, "not supported: use the cgroupfs driver")
	v := fs.Bool("version", false, "print the version")
	fs.BoolVar(v, "v", false, "print the version")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return a.help(fs)
	case err != nil:
		return err
	case *v:
		return a.printVersion()
	}
	if err := a.revise(fs, logFile, logFormat, *debug); err != nil {
		return err
	}
	if *systemd {
		return errors.New("systemd cgroup flag passed, but systemd support for managing cgroups is not available: use the cgroupfs driver")
	}
	if fs.NArg() == 0 || fs.Arg(0) == "help" || fs.Arg(0) == "h" {
		return a.help(fs)
	}
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == fs.Arg(0) })
	if i < 0 {
		return fmt.Errorf("No help topic for '%s'", fs.Arg(0)) //nolint:staticcheck // runc's words
	}
	c := &all[i]
	if c.reexec {
		if err := linux.ReexecReadOnly(); err != nil {
			return err
		}
		useOneProcessor()
		a.log.debugf("runc exeseal: using /proc/self/exe clone: a read-only mount of the program, in the place of " +
			"runc exeseal: using overlayfs for sealed /proc/self/exe")
	}
	return c.run(a, context.Background(), c, fs.Args()[1:])
}

// useOneProcessor keeps Go's scheduler from waking others for each step, a tenth of the
// processor time: one thing happens after the other here, on two threads. Whoever came
// by entry has it from the environment, which is the caller's again after this.
func useOneProcessor() {
	const name = "GOMAXPROCS"
	if os.Getenv(name) == "1" {
		_ = os.Unsetenv(name) // cannot fail for a proper name
	}
	goruntime.GOMAXPROCS(1)
}

// defaultRoot is where state lives unless --root says otherwise.
func defaultRoot() string {
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" && os.Geteuid() != 0 {
		return d + "/hull-runc"
	}
	return "/run/hull-runc"
}

// revise checks the global flags and opens the log.
func (a *app) revise(fs *flag.FlagSet, logFile, logFormat string, debug bool) error {
	fs.Visit(func(f *flag.Flag) { a.rootSet = a.rootSet || f.Name == "root" })
	var err error
	if a.root, err = filepath.Abs(a.root); err != nil {
		return err
	}
	if a.root == "/" {
		return errors.New("Option --root argument should not be set to /") //nolint:staticcheck // runc's words
	}
	return a.log.open(logFile, logFormat, debug)
}

func (a *app) help(fs *flag.FlagSet) error {
	fmt.Fprintf(a.out, "NAME:\n   hull-runc - Open Container Initiative runtime\n\nUSAGE:\n   hull-runc [global options] command [command options] [arguments...]\n\n"+
		"VERSION:\n   %s\n\nCOMMANDS:\n", fullVersion())
	for _, c := range commands() {
		fmt.Fprintf(a.out, "   %-11s %s\n", c.name, c.help)
	}
	fmt.Fprintln(a.out, "\nGLOBAL OPTIONS:")
	fs.SetOutput(a.out)
	fs.PrintDefaults()
	return nil
}

func fullVersion() string {
	v := strings.TrimPrefix(version, "v")
	if v == "dev" || v == "" {
		return release + "+dev"
	}
	if strings.Count(v, ".") >= 2 && v[0] >= '0' && v[0] <= '9' {
		return v
	}
	return release + "+" + v
}

func (a *app) printVersion() error {
	_, err := fmt.Fprintf(a.out, "hull-runc version %s\ncommit: %s\nspec: %s\ngo: %s\n", fullVersion(), commit, ociVersion, goruntime.Version())
	return err
}

func (a *app) unsupported(_ context.Context, c *command, args []string) error {
	fs := c.flags()
	if err := fs.Parse(args); err != nil {
		return err
	}
	return fmt.Errorf("%s: %s", c.name, c.help)
}
