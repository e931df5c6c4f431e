package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// logger writes runc's log lines: containerd and others read the last one of the
// file as JSON.
type logger struct {
	file  *os.File // nil = standard error
	json  bool
	debug bool
}

func (l *logger) open(file, format string, debug bool) error {
	switch format {
	case "", "text":
	case "json":
		l.json = true
	default:
		return errors.New("invalid log-format: " + format)
	}
	l.debug = debug
	if file == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	l.file = f
	return nil
}

func (l *logger) write(level, msg string) {
	var w io.Writer = os.Stderr
	if l.file != nil {
		w = l.file
	}
	now := time.Now().Format(time.RFC3339)
	if !l.json {
		fmt.Fprintf(w, "time=%q level=%s msg=%q\n", now, level, msg)
		return
	}
	b, err := json.Marshal(struct {
		Level string `json:"level"`
		Msg   string `json:"msg"`
		Time  string `json:"time"`
	}{level, msg, now})
	if err == nil { // strings always can
		fmt.Fprintf(w, "%s\n", b)
	}
}

// fatal logs the error that ends the program; also in words on standard error
// when the log is a file.
func (l *logger) fatal(err error) {
	l.write("error", err.Error())
	if l.file != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func (l *logger) warnf(format string, a ...any) { l.write("warning", fmt.Sprintf(format, a...)) }

// debugf is heard with --debug only. The words are runc's where its tests and
// users look for them.
func (l *logger) debugf(format string, a ...any) {
	if l.debug {
		l.write("debug", fmt.Sprintf(format, a...))
	}
}
