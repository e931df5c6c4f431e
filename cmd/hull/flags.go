package main

import (
	"strconv"
	"strings"
)

// flag is one flag that a quick verb understands. set reports false for a value
// that is wrong or unusual: hull-cli then looks at it.
type flag struct {
	name   string
	short  byte // 0 = none
	isBool bool // the value may be left out, and only --x=false gives another one
	set    func(string) bool
}

// parseFlags reads args as pflag does: --name value, --name=value, -n value, -nvalue,
// -n=value, -abc. Without interspersed it ends at the first argument that is no
// flag. false = a flag that is not in the table, or a value that set refused.
func parseFlags(args []string, table []flag, interspersed bool) (rest []string, ok bool) {
	for len(args) > 0 {
		a := args[0]
		switch {
		case a == "--":
			return append(rest, args[1:]...), true
		case len(a) < 2 || a[0] != '-':
			if !interspersed {
				return args, true
			}
			rest, args = append(rest, a), args[1:]
			continue
		case a[1] == '-':
			args, ok = long(args, table)
		default:
			args, ok = short(args, table)
		}
		if !ok {
			return nil, false
		}
	}
	return rest, true
}

// long sets the flag --name that args begin with.
func long(args []string, table []flag) ([]string, bool) {
	name, value, given := strings.Cut(args[0][2:], "=")
	for i := range table {
		f := &table[i]
		if f.name != name {
			continue
		}
		switch {
		case given:
			return args[1:], f.set(value)
		case f.isBool:
			return args[1:], f.set("true")
		case len(args) < 2:
			return nil, false
		}
		return args[2:], f.set(args[1])
	}
	return nil, false
}

// short sets the flags of one argument -abc.
func short(args []string, table []flag) ([]string, bool) {
	letters := args[0][1:]
	for letters != "" {
		f := byLetter(table, letters[0])
		if f == nil {
			return nil, false
		}
		letters = letters[1:]
		value, given := strings.CutPrefix(letters, "=")
		switch {
		case given && letters != "=":
			return args[1:], f.set(value)
		case f.isBool:
			if !f.set("true") {
				return nil, false
			}
		case letters != "":
			return args[1:], f.set(letters)
		case len(args) < 2:
			return nil, false
		default:
			return args[2:], f.set(args[1])
		}
	}
	return args[1:], true
}

func byLetter(table []flag, letter byte) *flag {
	for i := range table {
		if table[i].short == letter && letter != 0 {
			return &table[i]
		}
	}
	return nil
}

// The kinds of flags.

func boolFlag(name string, short byte, to *bool) flag {
	return flag{name, short, true, func(s string) bool {
		v, err := strconv.ParseBool(s)
		*to = v
		return err == nil
	}}
}

func stringFlag(name string, short byte, to *string) flag {
	return flag{name, short, false, func(s string) bool { *to = s; return true }}
}

func listFlag(name string, short byte, to *[]string) flag {
	return flag{name, short, false, func(s string) bool { *to = append(*to, s); return true }}
}

// intFlag takes plain decimal numbers.
func intFlag(name string, short byte, to *int64) flag {
	return flag{name, short, false, func(s string) bool {
		v, err := strconv.ParseInt(s, 10, 64)
		*to = v
		return err == nil
	}}
}

// valueFlag is for values with a form of their own.
func valueFlag(name string, short byte, set func(string) bool) flag {
	return flag{name, short, false, set}
}
