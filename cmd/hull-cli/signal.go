package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/docker/cli/cli/command"
)

// signalError is the cause of a context that a signal cancelled.
type signalError struct{ signal os.Signal }

func (signalError) Error() string { return "" }

func (e signalError) code() int {
	if s, ok := e.signal.(syscall.Signal); ok {
		return 128 + int(s)
	}
	return 1
}

// notifyContext is cancelled, with a signalError as its cause, by the first
// SIGINT or SIGTERM.
func notifyContext(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	got := make(chan os.Signal, 1)
	signal.Notify(got, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case s := <-got:
			cancel(signalError{s})
		case <-ctx.Done():
		}
		signal.Stop(got)
	}()
	return ctx, func() { cancel(context.Canceled) }
}

// exitOnThird ends the process at the third signal, for commands that do not
// react to the cancelled context, with the terminal as it was.
func exitOnThird(ctx context.Context, s command.Streams) {
	<-ctx.Done()
	var sig signalError
	if !errors.As(context.Cause(ctx), &sig) {
		return
	}
	more := make(chan os.Signal, 2)
	signal.Notify(more, os.Interrupt, syscall.SIGTERM)
	<-more
	<-more
	fmt.Fprint(s.Err(), "\ngot 3 SIGTERM/SIGINTs, forcefully exiting\n")
	s.In().RestoreTerminal()
	s.Out().RestoreTerminal()
	s.Err().RestoreTerminal()
	os.Exit(1)
}
