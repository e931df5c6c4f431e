package vm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"hull/internal/require"
)

// services is how long a service may take to answer: a database that starts under
// emulated instructions, on processors that others use.
const services = 5 * time.Minute

// slowly waits until ok says nil.
func (w *world) slowly(what string, ok func() error) {
	w.t.Helper()
	var err error
	for deadline := time.Now().Add(services); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	w.t.Fatalf("waited %v in vain until %s: %v\nhulld's log:\n%s", services, what, err, w.Log())
}

// redis sends commands to the server at a published port and returns its answers.
func (w *world) redis(port string, commands ...string) (string, error) {
	conn, err := w.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, strings.Join(commands, "\r\n")+"\r\n"); err != nil {
		return "", err
	}
	in := bufio.NewReader(conn)
	var answers []string
	for range commands {
		line, err := in.ReadString('\n')
		if n := 0; err == nil && strings.HasPrefix(line, "$") && line != "$-1\r\n" {
			if _, err = fmt.Sscanf(line, "$%d", &n); err == nil {
				line, err = in.ReadString('\n')
			}
		}
		if err != nil {
			return "", err
		}
		answers = append(answers, strings.TrimSpace(line))
	}
	return strings.Join(answers, " "), nil
}

// TestServicesMoveBetweenIsolations: Redis and PostgreSQL by the same line with
// another --isolation, on the same volumes: each finds what the one before wrote,
// and writes something itself.
func TestServicesMoveBetweenIsolations(t *testing.T) {
	t.Parallel()
	require.Runsc(t)
	psql := require.Program(t, "psql")
	w := start(t, "redis", "postgres")
	isolations := []string{"container", "sandbox", "vm", "container"}
	clients := w.Clients()
	for i, isolation := range isolations {
		c := clients[i%2]
		port := fmt.Sprint(38679 + i)
		c.Run("run", "-d", "--name", "cache", "--isolation", isolation, "-p", port+":6379", "-v", "cache:/data", "redis")
		w.slowly("redis answers in "+isolation, func() error {
			got, err := w.redis(port, "PING")
			if err == nil && got != "+PONG" {
				err = errors.New(got)
			}
			return err
		})
		want := fmt.Sprintf("%d :%d +OK", i, i+1)
		if i == 0 {
			want = "$-1 :1 +OK"
		}
		if got, err := w.redis(port, "GET n", "INCR n", "SAVE"); got != want {
			t.Errorf("redis in %s: %q, want %q (%v)", isolation, got, want, err)
		}
		c.Run("rm", "-f", "cache")
	}
	for i, isolation := range isolations {
		c := clients[(i+1)%2]
		port := fmt.Sprint(38779 + i)
		c.Run("run", "-d", "--name", "pg", "--isolation", isolation, "-p", port+":5432", "-v", "pgdata:/var/lib/postgresql/data", "-e", "POSTGRES_PASSWORD=secret", "postgres")
		sql := func(query string) (string, error) {
			cmd := w.HostCommand(psql, "-h", "127.0.0.1", "-p", port, "-U", "postgres", "-At", "-v", "ON_ERROR_STOP=1", "-c", query)
			cmd.Env = append(cmd.Environ(), "PGPASSWORD=secret", "PGCONNECT_TIMEOUT=20")
			out, err := cmd.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return strings.TrimSpace(string(out)), err
		}
		w.slowly("postgres answers in "+isolation, func() error {
			_, err := sql("SELECT 1")
			return err
		})
		if _, err := sql("CREATE TABLE IF NOT EXISTS t (place text)"); err != nil {
			t.Fatalf("postgres in %s: %v", isolation, err)
		}
		if _, err := sql("INSERT INTO t VALUES ('" + isolation + "')"); err != nil {
			t.Fatalf("postgres in %s: %v", isolation, err)
		}
		if got, err := sql("SELECT string_agg(place, ' ') FROM t"); got != strings.Join(isolations[:i+1], " ") {
			t.Errorf("postgres in %s has %q (%v)", isolation, got, err)
		}
		c.Run("stop", "-t", "90", "pg")
		if got := c.Run("inspect", "-f", "{{.State.ExitCode}}", "pg"); got != "0" {
			t.Errorf("postgres in %s ended with code %s", isolation, got)
		}
		c.Run("rm", "pg")
	}
}
