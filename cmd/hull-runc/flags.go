package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

// errInvalidID, errNotExist and errExist are runc's, which clients look for.
var (
	errInvalidID = errors.New("invalid container ID format")
	errNotExist  = errors.New("container does not exist")
	errExist     = errors.New("container with given ID already exists")
	errStopped   = errors.New("container not running")
)

// flags makes a flag set that reads a verb's own options, and explains them in
// runc's form.
func (c *command) flags() *flag.FlagSet {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(os.Stdout)
	fs.Usage = func() {
		fmt.Printf("NAME:\n   hull-runc %s - %s\n\nUSAGE:\n   hull-runc %s %s\n\nOPTIONS:\n", c.name, c.help, c.name, c.usage)
		fs.PrintDefaults()
	}
	return fs
}

// positional reads flags wherever they stand among the arguments, and checks that
// at least least and at most most (-1 = any number) others are left.
func positional(fs *flag.FlagSet, args []string, least, most int) ([]string, error) {
	var out []string
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		rest := fs.Args()
		if len(rest) == 0 {
			break
		}
		if n := len(args) - len(rest); n > 0 && args[n-1] == "--" {
			out = append(out, rest...)
			break
		}
		out, args = append(out, rest[0]), rest[1:]
	}
	return out, count(fs, len(out), least, most)
}

// leading reads flags up to the first other argument only: what follows may be
// another program's.
func leading(fs *flag.FlagSet, args []string, least int) ([]string, error) {
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	return fs.Args(), count(fs, fs.NArg(), least, -1)
}

func count(fs *flag.FlagSet, n, least, most int) error {
	var what string
	switch {
	case least == most && n != least:
		what = fmt.Sprintf("exactly %d", least)
	case n < least:
		what = fmt.Sprintf("a minimum of %d", least)
	case most >= 0 && n > most:
		what = fmt.Sprintf("a maximum of %d", most)
	default:
		return nil
	}
	fmt.Print("Incorrect Usage.\n\n")
	fs.Usage()
	return fmt.Errorf("%s: %q requires %s argument(s)", os.Args[0], fs.Name(), what)
}

// oneID is the container's id among a verb's flags.
func oneID(fs *flag.FlagSet, args []string) (string, error) {
	p, err := positional(fs, args, 1, 1)
	if err != nil {
		return "", err
	}
	return p[0], checkID(p[0])
}

// checkID allows runc's ids: they become a directory's name.
func checkID(id string) error {
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+-.", r))
	}
	if id == "" {
		return errors.New("container id cannot be empty")
	}
	if id == "." || id == ".." || len(id) > 1024 || strings.ContainsFunc(id, bad) {
		return errInvalidID
	}
	return nil
}
