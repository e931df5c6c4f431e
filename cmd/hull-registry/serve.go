package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // the kinds that the configuration names
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
)

// shutdownLimit bounds how long transfers under way may go on after a signal.
const shutdownLimit = 10 * time.Second

// options are the flags of "serve".
type options struct {
	listen, root      string
	cert, key         string
	selfSigned, plain bool
	htpasswd          string
	readOnly          bool
}

func serveCommand(getenv func(string) string) *cobra.Command {
	o := options{}
	cmd := &cobra.Command{
		Use: "serve [OPTIONS]", Short: "Serve a registry until interrupted", Args: cobra.NoArgs,
		Long: `Serve a registry until interrupted.

On a loopback address, plain HTTP is enough: every client takes it. For others
give a certificate (--tls-cert, --tls-key) or let one be made (--tls); its
authority's certificate, which clients must trust, is ROOT/tls/ca.crt.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), o, func(text string) { fmt.Fprintln(cmd.OutOrStdout(), text) })
		},
	}
	root := getenv("HULL_ROOT")
	if root == "" {
		root = "/var/lib/hull"
	}
	f := cmd.Flags()
	f.StringVarP(&o.listen, "listen", "l", "127.0.0.1:5000", "Address and port to serve")
	f.StringVar(&o.root, "root", filepath.Join(root, "registry"), "Directory of the registry's files")
	f.StringVar(&o.cert, "tls-cert", "", "Certificate file (PEM)")
	f.StringVar(&o.key, "tls-key", "", "The certificate's key file (PEM)")
	f.BoolVar(&o.selfSigned, "tls", false, "Make a certificate authority and a certificate for this host's names")
	f.BoolVar(&o.plain, "insecure", false, "Serve plain HTTP to the network")
	f.StringVar(&o.htpasswd, "htpasswd", "", "Let in only the users of this file (htpasswd -B)")
	f.BoolVar(&o.readOnly, "read-only", false, "Refuse pushes and deletions")
	return cmd
}

// check refuses what would be unsafe or cannot work.
func (o options) check() error {
	host, _, err := net.SplitHostPort(o.listen)
	if err != nil {
		return fmt.Errorf("address to serve %q: %w", o.listen, err)
	}
	ip := net.ParseIP(host)
	loopback := host == "localhost" || ip != nil && ip.IsLoopback()
	switch {
	case (o.cert == "") != (o.key == ""):
		return errors.New("--tls-cert and --tls-key are needed together")
	case o.cert != "" && o.selfSigned:
		return errors.New("--tls makes a certificate: leave --tls-cert and --tls-key out, or --tls")
	case !loopback && o.cert == "" && !o.selfSigned && !o.plain:
		return fmt.Errorf("%s can be reached from the network: use --tls, or --tls-cert and --tls-key (or --insecure, and anybody on the way can change images)", o.listen)
	case o.htpasswd != "" && !loopback && o.plain:
		return errors.New("--htpasswd with --insecure would send passwords in the clear: use --tls")
	}
	if o.htpasswd != "" {
		if _, err := os.Stat(o.htpasswd); err != nil { // distribution would make one, with a user of its own
			return fmt.Errorf("file of users: %w", err)
		}
	}
	return nil
}

// configuration is distribution's, from ours.
func (o options) configuration() *configuration.Configuration {
	c := &configuration.Configuration{
		Version: "0.1",
		Storage: configuration.Storage{
			"filesystem": configuration.Parameters{"rootdirectory": o.root},
			"delete":     configuration.Parameters{"enabled": true},
		},
	}
	if o.readOnly {
		c.Storage["maintenance"] = configuration.Parameters{"readonly": map[any]any{"enabled": true}}
	}
	c.Log.AccessLog.Disabled = true
	c.Log.Level = "panic"      // it counts "not found" among the errors; ours tells (tells)
	c.HTTP.RelativeURLs = true // right behind every proxy and port mapping
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	c.HTTP.Secret = hex.EncodeToString(secret[:])
	if o.htpasswd != "" {
		c.Auth = configuration.Auth{"htpasswd": configuration.Parameters{"realm": "hull registry", "path": o.htpasswd}}
	}
	return c
}

// serve serves until ctx ends. say tells the user where.
func serve(ctx context.Context, o options, say func(string)) error {
	if err := o.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(o.root, 0o700); err != nil {
		return fmt.Errorf("make registry directory: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("serve %s: %w", o.listen, err)
	}
	scheme := "http"
	if o.cert != "" || o.selfSigned {
		cert, err := o.certificate(say)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		scheme = "https"
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}})
	}
	logrus.SetLevel(logrus.PanicLevel)
	server := &http.Server{Handler: tells(handlers.NewApp(ctx, o.configuration()), say), ReadHeaderTimeout: 30 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	say(fmt.Sprintf("Serving %s at %s://%s", o.root, scheme, l.Addr()))
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", o.listen, err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
	defer cancel()
	return errors.Join(server.Shutdown(end), server.Close())
}

// tells lets the operator know of requests that failed on this side.
func tells(next http.Handler, say func(string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(s, r)
		if s.status >= http.StatusInternalServerError {
			say(fmt.Sprintf("%s %s: %d %s", r.Method, r.URL.Path, s.status, http.StatusText(s.status)))
		}
	})
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// ReadFrom lets the kernel copy files.
func (w *statusWriter) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, r) }
