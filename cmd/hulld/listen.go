package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// listen opens the engine's own socket, or takes it from systemd, and every
// --host.
func listen(o options) ([]net.Listener, error) {
	out, err := activated()
	if err != nil {
		return nil, err
	}
	own := filepath.Join(o.run, "hull.sock")
	hosts := o.hosts
	if len(out) == 0 {
		hosts = append([]string{"unix://" + own}, hosts...)
	}
	for _, h := range hosts {
		l, err := listenOn(h, o)
		if err != nil {
			for _, open := range out {
				open.Close()
			}
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

func listenOn(host string, o options) (net.Listener, error) {
	scheme, addr, ok := strings.Cut(host, "://")
	switch {
	case ok && scheme == "unix":
		return listenUnix(addr, o.group)
	case ok && scheme == "tcp":
		conf, err := o.tls.config()
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", host, err)
		}
		l, err := tls.Listen("tcp", addr, conf)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", host, err)
		}
		return l, nil
	}
	return nil, fmt.Errorf("listen on %q: use unix://PATH or tcp://HOST:PORT", host)
}

// listenUnix replaces a socket that nobody serves. The store's lock has made
// sure that this run directory has no other engine.
func listenUnix(path, group string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace socket: %w", err)
	}
	// Nobody else between bind and chmod: the socket is made without any right.
	old := syscall.Umask(0o777)
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	mode := os.FileMode(0o600)
	if g, err := user.LookupGroup(group); err == nil && os.Geteuid() == 0 {
		gid, err := strconv.Atoi(g.Gid)
		if err == nil && os.Chown(path, 0, gid) == nil {
			mode = 0o660
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, fmt.Errorf("set mode of socket: %w", err)
	}
	return l, nil
}

// activated are the sockets systemd passed (sd_listen_fds(3)).
func activated() ([]net.Listener, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 0 {
		return nil, fmt.Errorf("LISTEN_FDS is %q", os.Getenv("LISTEN_FDS"))
	}
	var out []net.Listener
	for i := range n {
		f := os.NewFile(uintptr(3+i), "systemd") //nolint:mnd // SD_LISTEN_FDS_START
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("socket %d from systemd: %w", i, err)
		}
		out = append(out, l)
	}
	return out, nil
}

func loadTLS(t tlsFiles) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(t.cert, t.key)
	if err != nil {
		return nil, fmt.Errorf("load TLS key pair: %w", err)
	}
	pem, err := os.ReadFile(t.ca)
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load CA %s: no certificate in it", t.ca)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}, nil
}
