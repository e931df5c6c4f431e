package e2e

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"hull/internal/require"
	"hull/test/harness"
)

func TestRedisThroughAPublishedPort(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"redis"})
	for i, c := range e.Clients() {
		port := fmt.Sprint(36379 + i)
		c.Run("run", "-d", "--name", "redis-"+c.Name, "-p", port+":6379", "redis")
		r := newRedis(t, e, "127.0.0.1:"+port)
		if got := r.do("SET", "greeting", "hello"); got != "+OK" {
			t.Fatalf("SET: %s", got)
		}
		if got := r.do("GET", "greeting"); got != "$5 hello" {
			t.Fatalf("GET: %s", got)
		}
		// The server does not run as root, and its data is in the image's volume.
		if got := c.Run("exec", "redis-"+c.Name, "sh", "-c", "cat /proc/1/comm; stat -c %U /proc/1"); got != "redis-server\nredis" {
			t.Errorf("process 1: %q", got)
		}
		if got := r.do("SAVE"); got != "+OK" {
			t.Fatalf("SAVE: %s", got)
		}
		r.close()
		c.Run("restart", "redis-"+c.Name)
		r = newRedis(t, e, "127.0.0.1:"+port)
		if got := r.do("GET", "greeting"); got != "$5 hello" {
			t.Errorf("GET after a restart: %s", got)
		}
		r.close()
	}
}

// redis is a client of the RESP protocol, enough for a test.
type redis struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func newRedis(t *testing.T, e *harness.Engine, address string) *redis {
	t.Helper()
	r := &redis{t: t}
	e.Eventually("redis answers", func() error {
		conn, err := e.Dial("tcp", address)
		if err != nil {
			return err
		}
		r.conn, r.in = conn, bufio.NewReader(conn)
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
		if _, err := conn.Write([]byte("PING\r\n")); err != nil {
			return err
		}
		line, err := r.in.ReadString('\n')
		if err == nil && line != "+PONG\r\n" {
			err = fmt.Errorf("answer %q", line)
		}
		if err != nil {
			conn.Close()
		}
		return err
	})
	return r
}

func (r *redis) do(words ...string) string {
	r.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	if err := r.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.conn.Write([]byte(b.String())); err != nil {
		r.t.Fatal(err)
	}
	line, err := r.in.ReadString('\n')
	if err != nil {
		r.t.Fatal(err)
	}
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, "$") && line != "$-1" {
		value, err := r.in.ReadString('\n')
		if err != nil {
			r.t.Fatal(err)
		}
		line += " " + strings.TrimSpace(value)
	}
	return line
}

func (r *redis) close() { r.conn.Close() }

func TestPostgresKeepsItsDataInAVolume(t *testing.T) {
	t.Parallel()
	psql := require.Program(t, "psql")
	e := harness.Start(t, []string{"postgres"})
	docker := e.Docker()
	run := func() {
		docker.Run("run", "-d", "--name", "pg", "-e", "POSTGRES_PASSWORD=secret", "-p", "127.0.0.1:35432:5432", "-v", "pgdata:/var/lib/postgresql/data", "postgres")
	}
	query := func(sql string) (string, error) {
		cmd := e.HostCommand(psql, "-h", "127.0.0.1", "-p", "35432", "-U", "postgres", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql)
		cmd.Env = append(cmd.Environ(), "PGPASSWORD=secret", "PGCONNECT_TIMEOUT=3")
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return strings.TrimSpace(string(out)), err
	}
	must := func(sql, want string) {
		t.Helper()
		if got, err := query(sql); err != nil || got != want {
			t.Fatalf("%s: %q, want %q (%v)\nlogs: %v", sql, got, want, err, docker.Try("logs", "pg"))
		}
	}
	ready := func() {
		t.Helper()
		e.Eventually("PostgreSQL answers", func() error { _, err := query("SELECT 1"); return err })
	}
	run()
	ready()
	must("CREATE TABLE t (n int, s text)", "CREATE TABLE")
	must("INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 1000) n", "INSERT 0 1000")
	docker.Run("restart", "pg")
	ready()
	must("SELECT count(*), max(s) FROM t", "1000|row 999")

	// Another container on the same volume.
	docker.Run("stop", "pg")
	if got := docker.Run("inspect", "-f", "{{.State.ExitCode}}", "pg"); got != "0" {
		t.Errorf("PostgreSQL stopped with exit code %s: the stop signal of the image was not used", got)
	}
	docker.Run("rm", "pg")
	run()
	ready()
	must("SELECT count(*) FROM t", "1000")
	if logs := docker.Try("logs", "pg"); strings.Contains(logs.Stdout+logs.Stderr, "init process complete") {
		t.Error("the cluster was made again")
	}
}

func TestNginxServesABindMount(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"nginx"})
	dir := e.Dir("html")
	e.WriteFile("html/index.html", "<p>from the host</p>\n")
	for i, c := range e.Clients() {
		url := fmt.Sprintf("http://127.0.0.1:%d/", 38080+i)
		c.Run("run", "-d", "--name", "web-"+c.Name, "-p", fmt.Sprintf("%d:80", 38080+i), "-v", dir+":/usr/share/nginx/html:ro", "nginx")
		get := func(want string) {
			t.Helper()
			e.Eventually(url+" shows "+want, func() error {
				status, body, err := e.Get(url)
				if err == nil && (status != 200 || !strings.Contains(body, want)) {
					err = fmt.Errorf("%d %q", status, body)
				}
				return err
			})
		}
		get("from the host")
		e.WriteFile("html/index.html", "<p>changed by "+c.Name+"</p>\n")
		get("changed by " + c.Name)
		e.WriteFile("html/index.html", "<p>from the host</p>\n")

		// The access log of the image goes to standard output.
		e.Eventually("the log shows the request", func() error {
			if out := c.Run("logs", "web-"+c.Name); !strings.Contains(out, `"GET / HTTP/1.1" 200`) {
				return fmt.Errorf("log: %q", out)
			}
			return nil
		})
		c.Run("stop", "web-"+c.Name)
		if _, _, err := e.Get(url); err == nil {
			t.Error("the published port answers after stop")
		}
	}
}

func TestPortsAreReachable(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	docker := e.Docker()
	docker.Run("run", "-d", "--name", "web", "-p", "38000-38002:8000-8002", "-p", "127.0.0.1::8000", "busybox",
		"sh", "-c", "mkdir /w; echo page > /w/index.html; for p in 8000 8001 8002; do httpd -p $p -h /w; done; sleep 600")
	random := docker.Run("inspect", "-f", `{{range index .NetworkSettings.Ports "8000/tcp"}}{{.HostIp}}:{{.HostPort}} {{end}}`, "web")
	addresses := []string{"127.0.0.1:38000", "127.0.0.1:38001", "127.0.0.1:38002"}
	for a := range strings.FieldsSeq(random) {
		if strings.HasPrefix(a, "127.0.0.1:") {
			addresses = append(addresses, a)
		}
	}
	if len(addresses) != 4 {
		t.Fatalf("no random port: %q", random)
	}
	for _, a := range addresses {
		e.Eventually(a+" answers", func() error {
			status, body, err := e.Get("http://" + a + "/")
			if err == nil && (status != 200 || body != "page\n") {
				err = fmt.Errorf("%d %q", status, body)
			}
			return err
		})
	}

	// UDP keeps its answers apart.
	docker.Run("run", "-d", "--name", "udp", "-p", "127.0.0.1:38053:53/udp", "busybox", "nc", "-u", "-l", "-p", "53", "-e", "cat")
	e.Eventually("UDP echo", func() error {
		conn, err := e.Dial("udp", "127.0.0.1:38053")
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if _, err := conn.Write([]byte("ping")); err != nil {
			return err
		}
		buf := make([]byte, 16)
		n, err := conn.Read(buf)
		if err == nil && string(buf[:n]) != "ping" {
			err = fmt.Errorf("echo %q", buf[:n])
		}
		return err
	})

	// A port that a program of the host holds.
	l, err := e.Listen("127.0.0.1:38099")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	docker.Fails(125, []string{"38099"}, "run", "--rm", "-p", "127.0.0.1:38099:80", "busybox", "true")
}

func TestPandasOverABindMountedFile(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"jupyter"})
	e.WriteFile("data/sales.csv", "city,amount\nRome,10\nOslo,20\nRome,5\n")
	e.WriteFile("data/sum.py", "import pandas as pd\nd = pd.read_csv('/data/sales.csv')\nd.groupby('city').sum().to_csv('/data/out.csv')\nprint(d.groupby('city').amount.sum().to_dict())\n")
	got := e.Docker().Run("run", "--rm", "--user", "root", "-v", e.Dir("data")+":/data", "jupyter", "python3", "/data/sum.py")
	if got != "{'Oslo': 20, 'Rome': 15}" {
		t.Errorf("pandas says %q", got)
	}
	if got := e.Hull().Run("run", "--rm", "-v", e.Dir("data")+":/data:ro", "jupyter", "cat", "/data/out.csv"); got != "city,amount\nOslo,20\nRome,15" {
		t.Errorf("the file written through the bind mount: %q", got)
	}

	e.Docker().Run("run", "-d", "--name", "nb", "-p", "127.0.0.1:38888:8888", "jupyter", "jupyter", "notebook", "--ip=0.0.0.0", "--no-browser", "--NotebookApp.token=tok")
	e.Eventually("Jupyter answers", func() error {
		status, body, err := e.Get("http://127.0.0.1:38888/api/status?token=tok")
		if err == nil && (status != 200 || !strings.Contains(body, `"kernels"`)) {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	})
}
