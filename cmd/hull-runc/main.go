// Command hull-runc is an OCI runtime with runc's command line, over
// internal/runtime: containerd, CRI-O, Podman and the public test suites can use
// it where they use runc.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"hull/internal/linux"
)

// version is set by the linker.
var version = "dev" //nolint:gochecknoglobals // -ldflags -X needs a variable

// app is one invocation.
type app struct {
	root      string // state of all containers
	log       string
	logFormat string
	debug     bool
	out       io.Writer
}

// exitError ends the program with a code and no message: the workload's.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// command is one verb.
type command struct {
	name, usage, help string
	reexec            bool // makes processes in containers: see linux.ReexecReadOnly
	run               func(a *app, ctx context.Context, args []string) error
}

func commands() []command {
	return []command{
		{"create", "create [flags] ID", "create a container; it waits for start", true, (*app).create},
		{"start", "start ID", "run the process of a created container", false, (*app).start},
		{"run", "run [flags] ID", "create and start a container", true, (*app).run},
		{"exec", "exec [flags] ID COMMAND [ARG...]", "run another process in a container", true, (*app).exec},
		{"state", "state ID", "print the state of a container", false, (*app).state},
		{"kill", "kill [flags] ID [SIGNAL]", "send a signal to the container's process", false, (*app).kill},
		{"delete", "delete [flags] ID", "remove what a stopped container holds", false, (*app).delete},
		{"list", "list [flags]", "list containers", false, (*app).list},
		{"ps", "ps [flags] ID [ps options]", "list the processes of a container", false, (*app).ps},
		{"pause", "pause ID", "freeze a container", false, (*app).pause},
		{"resume", "resume ID", "let a frozen container go on", false, (*app).resume},
		{"update", "update [flags] ID", "change limits", false, (*app).update},
		{"events", "events [flags] ID", "print statistics and out of memory events", false, (*app).events},
		{"spec", "spec [flags]", "write a config.json to start from", false, (*app).spec},
		{"features", "features", "say what this runtime can do, as JSON", false, (*app).features},
	}
}

func main() {
	a := &app{out: os.Stdout}
	err := a.main(os.Args[1:])
	var code exitError
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	default:
		a.report(err)
		os.Exit(1)
	}
}

func (a *app) main(args []string) error {
	fs := flag.NewFlagSet("hull-runc", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&a.root, "root", "/run/hull-runc", "directory for the state of containers")
	fs.StringVar(&a.log, "log", "", "file for the log, default standard error")
	fs.StringVar(&a.logFormat, "log-format", "text", "text or json")
	fs.BoolVar(&a.debug, "debug", false, "accepted for runc's sake")
	fs.String("criu", "", "accepted for runc's sake")
	fs.String("rootless", "auto", "accepted for runc's sake")
	systemd := fs.Bool("systemd-cgroup", false, "not supported")
	v := fs.Bool("version", false, "print the version")
	fs.BoolVar(v, "v", false, "print the version")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return a.help()
		}
		return err
	}
	if *v {
		return a.printVersion()
	}
	if *systemd {
		return errors.New("--systemd-cgroup is not supported: use the cgroupfs driver")
	}
	if fs.NArg() == 0 || fs.Arg(0) == "help" {
		return a.help()
	}
	for _, c := range commands() {
		if c.name != fs.Arg(0) {
			continue
		}
		if c.reexec {
			if err := linux.ReexecReadOnly(); err != nil {
				return err
			}
		}
		return c.run(a, context.Background(), fs.Args()[1:])
	}
	return fmt.Errorf("no command %q: see hull-runc help", fs.Arg(0))
}

func (a *app) help() error {
	fmt.Fprintln(a.out, "hull-runc: an OCI runtime\n\nUsage: hull-runc [--root DIR] [--log FILE] [--log-format text|json] COMMAND\n\nCommands:")
	for _, c := range commands() {
		fmt.Fprintf(a.out, "  %-36s %s\n", c.usage, c.help)
	}
	return nil
}

func (a *app) printVersion() error {
	_, err := fmt.Fprintf(a.out, "hull-runc version %s\nspec: %s\n", version, ociVersion)
	return err
}

// report writes an error where the caller looks for it: containerd and others read
// the last line of the log as JSON.
func (a *app) report(err error) {
	msg := err.Error()
	if a.log != "" {
		if f, oerr := os.OpenFile(a.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); oerr == nil {
			writeLog(f, a.logFormat, msg)
			f.Close()
		}
	}
	if a.log == "" && a.logFormat == "json" {
		writeLog(os.Stderr, a.logFormat, msg)
		return
	}
	fmt.Fprintln(os.Stderr, "hull-runc:", msg)
}

func writeLog(w io.Writer, format, msg string) {
	now := time.Now().Format(time.RFC3339)
	if format != "json" {
		fmt.Fprintf(w, "time=%q level=error msg=%q\n", now, msg)
		return
	}
	b, err := json.Marshal(map[string]string{"level": "error", "msg": msg, "time": now})
	if err == nil { // strings always can
		fmt.Fprintf(w, "%s\n", b)
	}
}

// flags makes a flag set that reads a verb's own options.
func flags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(os.Stderr)
	return fs
}

// oneID is the container's id after a verb's flags.
func oneID(fs *flag.FlagSet, args []string) (string, error) {
	if err := fs.Parse(args); err != nil {
		return "", err
	}
	if fs.NArg() != 1 {
		return "", fmt.Errorf("%s needs exactly one container id", fs.Name())
	}
	return checkID(fs.Arg(0))
}

// checkID allows runc's ids: they become a directory's name.
func checkID(id string) (string, error) {
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+-.", r))
	}
	if id == "" || id == "." || id == ".." || len(id) > 1024 || strings.ContainsFunc(id, bad) {
		return "", fmt.Errorf("invalid container id %q: only letters, digits and _+-. are allowed", id)
	}
	return id, nil
}
