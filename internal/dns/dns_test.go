package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// files are a pod's configuration and zones in a directory.
type files struct {
	t    testing.TB
	dir  string
	conf Config
}

func newFiles(t testing.TB) *files {
	t.Helper()
	return &files{t: t, dir: t.TempDir(), conf: Config{NetNS: "/proc/self/ns/net"}}
}

func (f *files) replace(path string, text []byte) {
	f.t.Helper()
	must(f.t, os.WriteFile(path+".new", text, 0o600))
	must(f.t, os.Rename(path+".new", path))
}

func (f *files) zone(name string, z *Zone) {
	f.t.Helper()
	path := filepath.Join(f.dir, name+".zone")
	f.replace(path, z.Bytes())
	if !slices.ContainsFunc(f.conf.Networks, func(n Network) bool { return n.Name == name }) {
		f.conf.Networks = append(f.conf.Networks, Network{name, path})
	}
	f.write()
}

func (f *files) write() string {
	f.t.Helper()
	text, err := f.conf.Encode()
	must(f.t, err)
	path := filepath.Join(f.dir, ConfigName)
	f.replace(path, text)
	return path
}

func (f *files) server() *Server {
	f.t.Helper()
	v, err := openView(f.write())
	must(f.t, err)
	s := &Server{view: v, up: newForwarder(v), forwards: make(chan struct{}, maxForwards), conns: make(chan struct{}, maxConns), open: map[*os.File]struct{}{}}
	f.t.Cleanup(s.Close)
	return s
}

func query(t testing.TB, name string, kind dnsmessage.Type, edns int) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 77, RecursionDesired: true})
	must(t, b.StartQuestions())
	n, err := dnsmessage.NewName(name)
	must(t, err)
	must(t, b.Question(dnsmessage.Question{Name: n, Type: kind, Class: dnsmessage.ClassINET}))
	if edns > 0 {
		must(t, b.StartAdditionals())
		var h dnsmessage.ResourceHeader
		must(t, h.SetEDNS0(edns, 0, false))
		must(t, b.OPTResource(h, dnsmessage.OPTResource{}))
	}
	msg, err := b.Finish()
	must(t, err)
	return msg
}

// say is an answer in a line: its code, flags and records.
func say(t testing.TB, msg []byte) string {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(msg); err != nil {
		t.Fatalf("answer %x: %v", msg, err)
	}
	out := strings.TrimPrefix(m.RCode.String(), "RCode")
	if m.Truncated {
		out += " cut"
	}
	var records []string
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			records = append(records, netip.AddrFrom4(b.A).String())
		case *dnsmessage.AAAAResource:
			records = append(records, netip.AddrFrom16(b.AAAA).String())
		case *dnsmessage.PTRResource:
			records = append(records, b.PTR.String())
		}
	}
	slices.Sort(records)
	return strings.TrimSpace(out + " " + strings.Join(records, " "))
}

// ask is what a server says, or "forward".
func ask(t testing.TB, s *Server, name string, kind dnsmessage.Type) string {
	t.Helper()
	d := s.answer(query(t, name, kind, 0), nil, false)
	if d.forward {
		return "forward"
	}
	return say(t, d.msg)
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	var back, front Zone
	back.Add([]string{"db", "Postgres", "0123456789ab"}, addr("172.18.0.2"), addr("fd00::2"))
	back.Add([]string{"web-1", "web"}, addr("172.18.0.3"))
	back.Add([]string{"web-2", "web"}, addr("172.18.0.4"))
	front.Add([]string{"db", "proxy"}, addr("172.19.0.9"))
	front.Add([]string{"a.b", "x_y"}, addr("172.19.0.10"))
	f.conf.Links = []Link{{"store", "db", "front"}}
	f.zone("back", &back)
	f.zone("front.net", &front)
	f.conf.Links = append(f.conf.Links, Link{"kept", "db", "front.net"})
	s := f.server()
	for _, c := range []struct {
		name string
		kind dnsmessage.Type
		want string
	}{
		{"db.", dnsmessage.TypeA, "Success 172.18.0.2"},
		{"DB.", dnsmessage.TypeA, "Success 172.18.0.2"},
		{"postgres.", dnsmessage.TypeAAAA, "Success fd00::2"},
		{"0123456789ab.", dnsmessage.TypeALL, "Success 172.18.0.2 fd00::2"},
		{"db.back.", dnsmessage.TypeA, "Success 172.18.0.2"},
		{"db.front.net.", dnsmessage.TypeA, "Success 172.19.0.9"},
		{"db.FRONT.net.", dnsmessage.TypeA, "Success 172.19.0.9"},
		{"a.b.", dnsmessage.TypeA, "Success 172.19.0.10"},
		{"x_y.", dnsmessage.TypeA, "Success 172.19.0.10"},
		{"web.", dnsmessage.TypeA, "Success 172.18.0.3 172.18.0.4"},
		{"kept.", dnsmessage.TypeA, "Success 172.19.0.9"},
		{"kept.front.net.", dnsmessage.TypeA, "Success 172.19.0.9"},
		{"store.", dnsmessage.TypeA, "forward"}, // a link on a network that the pod is not on
		{"web.", dnsmessage.TypeAAAA, "Success"},
		{"web.", dnsmessage.TypeMX, "Success"},
		{"web.front.net.", dnsmessage.TypeA, "forward"},
		{"we.", dnsmessage.TypeA, "forward"},
		{"webs.", dnsmessage.TypeA, "forward"},
		{"web-.", dnsmessage.TypeA, "forward"},
		{"example.com.", dnsmessage.TypeA, "forward"},
		{".", dnsmessage.TypeNS, "forward"},
		{"3.0.18.172.in-addr.arpa.", dnsmessage.TypePTR, "Success web-1.back."},
		{"9.0.19.172.in-addr.arpa.", dnsmessage.TypePTR, "Success db.front.net."},
		{"2" + strings.Repeat(".0", 27) + ".0.0.d.f.ip6.arpa.", dnsmessage.TypePTR, "Success db.back."},
		{"8.8.8.8.in-addr.arpa.", dnsmessage.TypePTR, "forward"},
		{"x.8.8.8.in-addr.arpa.", dnsmessage.TypePTR, "forward"},
		{"172.18.0.3.", dnsmessage.TypeA, "Success"},
	} {
		if got := ask(t, s, c.name, c.kind); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.name, c.kind, got, c.want)
		}
	}
}

// What has changed on disk is what is answered, at once, and a zone that is gone
// leaves what was known.
func TestAnswersFollowTheFiles(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	var z Zone
	f.zone("n", &z)
	s := f.server()
	for i := range 50 {
		name := fmt.Sprintf("c%d", i)
		z.Add([]string{name}, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}))
		f.zone("n", &z)
		if got, want := ask(t, s, name+".", dnsmessage.TypeA), fmt.Sprintf("Success 10.0.0.%d", i+1); got != want {
			t.Fatalf("%s: %s, want %s", name, got, want)
		}
	}
	z.Remove([]string{"c7"}, addr("10.0.0.8"))
	f.zone("n", &z)
	if got := ask(t, s, "c7.", dnsmessage.TypeA); got != "forward" {
		t.Errorf("a name that is gone: %s", got)
	}
	must(t, os.Remove(filepath.Join(f.dir, "n.zone")))
	if got := ask(t, s, "c8.", dnsmessage.TypeA); got != "Success 10.0.0.9" {
		t.Errorf("a zone that is gone: %s", got)
	}
	f.conf.Networks = nil
	f.write()
	if got := ask(t, s, "c8.", dnsmessage.TypeA); got != "forward" {
		t.Errorf("a network that was left: %s", got)
	}
}

// Through its socket: many at a time, each answered with its own id, to who asked it;
// what was answered before is answered otherwise as soon as the files say so.
func TestDatagrams(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	var z Zone
	z.Add([]string{"web"}, addr("10.0.0.2"))
	for i := range 3 {
		z.Add([]string{"svc"}, netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}))
	}
	f.zone("n", &z)
	s := f.server()
	must(t, s.bind(netip.MustParseAddrPort("127.0.0.1:0")))
	at, err := unix.Getsockname(linux.FD(s.udp[0]))
	must(t, err)
	s.Start()
	dial := func() *net.UDPConn {
		c, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: at.(*unix.SockaddrInet4).Port})
		must(t, err)
		t.Cleanup(func() { c.Close() })
		must(t, c.SetDeadline(time.Now().Add(time.Minute)))
		return c
	}
	clients := []*net.UDPConn{dial(), dial()}
	webs := "Success 10.0.0.2"
	firsts := map[string]bool{}
	round := func(from int) {
		t.Helper()
		const each = 2 * batch // the kernel has room for them, and drops none
		for n, c := range clients {
			send := func(msg []byte) {
				_, err := c.Write(msg)
				must(t, err)
			}
			send(make([]byte, maxUDP+1)) // no question, neither is the next
			send([]byte("?"))
			for i := range each {
				q := query(t, []string{"web.", "svc."}[n], dnsmessage.TypeA, 0)
				binary.BigEndian.PutUint16(q, uint16(from+i))
				send(q)
			}
		}
		buf := make([]byte, maxUDP)
		for n, c := range clients {
			seen := map[uint16]bool{}
			for range each {
				size, err := c.Read(buf)
				must(t, err)
				seen[binary.BigEndian.Uint16(buf)] = true
				switch got := say(t, buf[:size]); {
				case n == 0 && got != webs:
					t.Fatalf("web: %s, want %s", got, webs)
				case n == 1 && got != "Success 10.0.1.0 10.0.1.1 10.0.1.2":
					t.Fatalf("svc: %s", got)
				case n == 1:
					firsts[string(buf[size-3*16:size-2*16])] = true
				}
			}
			if len(seen) != each || !seen[uint16(from)] || !seen[uint16(from+each-1)] {
				t.Fatalf("answers to %d questions of %d", len(seen), each)
			}
		}
	}
	round(1)
	round(1000)
	if len(firsts) != 3 {
		t.Errorf("%d of 3 replicas had their turn", len(firsts))
	}
	z.Remove([]string{"web"}, addr("10.0.0.2"))
	z.Add([]string{"web"}, addr("10.0.0.9"))
	f.zone("n", &z)
	webs = "Success 10.0.0.9"
	round(2000)
}

// Whatever is asked, what is kept of it has a bound.
func TestRecentIsBounded(t *testing.T) {
	t.Parallel()
	var r recent
	answer := make([]byte, headerLen)
	for i := range 10 * maxRecent {
		msg := query(t, fmt.Sprintf("c%d.", i), dnsmessage.TypeA, 0)
		r.put(msg, decision{msg: answer, same: true})
		if _, ok := r.get(msg, nil); !ok || len(r.answers) > maxRecent {
			t.Fatalf("after %d questions: %d kept, the last one %v", i+1, len(r.answers), ok)
		}
	}
	long := make([]byte, maxRecentLen+1)
	r.put(long, decision{msg: answer, same: true})
	if _, ok := r.get(long, nil); ok {
		t.Error("a question without bound is kept")
	}
}

func TestReplicasTakeTurns(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	var z Zone
	for i := range 3 {
		z.Add([]string{fmt.Sprintf("r%d", i), "svc"}, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 2)}))
	}
	f.zone("n", &z)
	s := f.server()
	first := map[netip.Addr]int{}
	for range 30 {
		first[s.view.lookup("svc").addrs[0]]++
	}
	if len(first) != 3 {
		t.Fatalf("first answers: %v", first)
	}
	for a, n := range first {
		if n != 10 {
			t.Errorf("%s came first %d times of 30", a, n)
		}
	}
}

func TestAnswersFit(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	var z Zone
	const replicas = 400
	for i := range replicas {
		z.Add([]string{"svc"}, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	f.zone("n", &z)
	s := f.server()
	for _, c := range []struct {
		edns  int
		tcp   bool
		limit int
	}{{0, false, 512}, {100, false, 512}, {1232, false, 1232}, {65535, false, maxUDP}, {0, true, maxTCP}} {
		d := s.answer(query(t, "svc.", dnsmessage.TypeA, c.edns), nil, c.tcp)
		var m dnsmessage.Message
		must(t, m.Unpack(d.msg))
		if len(d.msg) > c.limit || len(m.Answers) == 0 || m.Truncated != (len(m.Answers) < replicas) || c.tcp && m.Truncated {
			t.Errorf("%+v: %d bytes, %d answers, truncated %v", c, len(d.msg), len(m.Answers), m.Truncated)
		}
		if !c.tcp && c.limit-len(d.msg) > 28 {
			t.Errorf("%+v: %d bytes, there is room for more", c, len(d.msg))
		}
	}
}

func TestMalformed(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	s := f.server()
	good := query(t, "web.", dnsmessage.TypeA, 1232)
	edit := func(fn func(b []byte) []byte) []byte { return fn(slices.Clone(good)) }
	for name, c := range map[string]struct {
		msg  []byte
		want string // "" = no answer at all
	}{
		"empty":           {nil, ""},
		"short":           {good[:11], ""},
		"answer":          {edit(func(b []byte) []byte { b[2] |= 0x80; return b }), ""},
		"update":          {edit(func(b []byte) []byte { b[2] |= 5 << 3; return b }), "NotImplemented"},
		"no question":     {edit(func(b []byte) []byte { b[5] = 0; return b }), "FormatError"},
		"two questions":   {edit(func(b []byte) []byte { b[5] = 2; return b }), "FormatError"},
		"cut question":    {good[:14], "FormatError"},
		"cut option":      {good[:len(good)-3], "FormatError"},
		"65535 answers":   {edit(func(b []byte) []byte { b[6], b[7] = 0xff, 0xff; return b }), "FormatError"},
		"name that loops": {edit(func(b []byte) []byte { b[12], b[13] = 0xc0, 12; return b }), "FormatError"},
	} {
		d := s.answer(c.msg, nil, false)
		got := ""
		if d.forward {
			got = "forward"
		} else if d.msg != nil {
			got = say(t, d.msg)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	class := query(t, "web.", dnsmessage.TypeTXT, 0)
	binary.BigEndian.PutUint16(class[len(class)-2:], 3) // CHAOS
	if d := s.answer(class, nil, false); !d.forward {
		t.Error("another class is answered here")
	}
}

func TestZoneTakesBackWhatItGave(t *testing.T) {
	t.Parallel()
	var z Zone
	z.Add([]string{"a", "svc", "SVC", "bad name", ""}, addr("10.0.0.1"), netip.Addr{})
	z.Add([]string{"b", "svc"}, addr("10.0.0.2"))
	z.Add([]string{"b", "svc"}, addr("10.0.0.2"))
	want := "10.0.0.1\tP\ta\n10.0.0.2\tP\tb\na\t4\t10.0.0.1\nb\t4\t10.0.0.2\nsvc\t4\t10.0.0.1\nsvc\t4\t10.0.0.2\n"
	if got := string(z.Bytes()); got != want {
		t.Fatalf("%q", got)
	}
	z.Remove([]string{"b", "svc"}, addr("10.0.0.2"))
	if got := string(z.Bytes()); got != want {
		t.Errorf("the second of two left: %q", got)
	}
	z.Remove([]string{"b", "svc"}, addr("10.0.0.2"))
	z.Remove([]string{"a", "svc"}, addr("10.0.0.1"))
	z.Remove([]string{"a", "svc"}, addr("10.0.0.1"))
	if got := string(z.Bytes()); got != "" {
		t.Errorf("left over: %q", got)
	}
}

func TestConfigKeepsEverything(t *testing.T) {
	t.Parallel()
	c := Config{
		NetNS: "/run/with blanks/ns", Networks: []Network{{"a", "/z/a"}, {"b.c", "/z/b"}}, Links: []Link{{"x", "y", "a"}},
		Upstreams: []Upstream{{netip.MustParseAddrPort("10.0.0.1:53"), false}, {netip.MustParseAddrPort("[::1]:5353"), true}},
		DotsOnly:  true,
	}
	text, err := c.Encode()
	must(t, err)
	got, err := parseConfig(append(text, "of a later build\tx\n"...))
	if err != nil || fmt.Sprint(got) != fmt.Sprint(c) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []Config{{NetNS: ""}, {NetNS: "a\nb"}, {NetNS: "/x", Networks: []Network{{"a\tb", "/z"}}}} {
		if text, err := bad.Encode(); err == nil {
			t.Errorf("%q", text)
		}
	}
	for _, bad := range []string{"", "hull-dns 2\n", configHeader + "upstream\tpod\t1.2.3\n", configHeader + "upstream\thost\tx\n"} {
		if c, err := parseConfig([]byte(bad)); !errors.Is(err, errConfig) {
			t.Errorf("%q: %v, %v", bad, c, err)
		}
	}
}

// upstream is a name server on the test's own loopback.
type upstream struct {
	at     netip.AddrPort
	asked  chan string
	answer func(m *dnsmessage.Message) bool // false = say nothing
}

// newUpstream answers through UDP and TCP until the test is over.
func newUpstream(t testing.TB, answer func(m *dnsmessage.Message) bool) *upstream {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	for try := range 20 { // both protocols have the port
		var err error
		l, err = new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
		must(t, err)
		if p, err = new(net.ListenConfig).ListenPacket(t.Context(), "udp4", l.Addr().String()); err == nil {
			break
		}
		l.Close()
		if try == 19 {
			t.Fatal(err)
		}
	}
	u := &upstream{at: netip.MustParseAddrPort(l.Addr().String()), asked: make(chan string, 1000), answer: answer}
	t.Cleanup(func() { p.Close(); l.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			if out := u.handle(buf[:n], "udp"); out != nil {
				_, _ = p.WriteTo(out, from)
			}
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if msg, err := readFrame(c); err == nil {
					if out := u.handle(msg, "tcp"); out != nil {
						_ = writeFrame(c, out)
					}
				}
			}()
		}
	}()
	return u
}

func (u *upstream) handle(msg []byte, proto string) []byte {
	var m dnsmessage.Message
	if m.Unpack(msg) != nil {
		return nil
	}
	u.asked <- proto + " " + m.Questions[0].Name.String()
	m.Response, m.Additionals = true, nil
	if !u.answer(&m) {
		return nil
	}
	out, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return out
}

func answerA(m *dnsmessage.Message, a string, ttl uint32) bool {
	m.Answers = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: ttl},
		Body:   &dnsmessage.AResource{A: addr(a).As4()},
	}}
	return true
}

func forwarded(t testing.TB, s *Server, msg []byte, tcp bool) []byte {
	t.Helper()
	d := s.answer(msg, nil, tcp)
	if !d.forward {
		t.Fatal("not forwarded")
	}
	return s.ask(d.q, msg, tcp)
}

func (f *files) upstreams(list ...*upstream) {
	f.conf.Upstreams = nil
	for _, u := range list {
		f.conf.Upstreams = append(f.conf.Upstreams, Upstream{u.at, true})
	}
}

func TestForwardAsksTheNextWhenOneFails(t *testing.T) {
	t.Parallel()
	silent := newUpstream(t, func(*dnsmessage.Message) bool { return false })
	broken := newUpstream(t, func(m *dnsmessage.Message) bool { m.RCode = dnsmessage.RCodeServerFailure; return true })
	good := newUpstream(t, func(m *dnsmessage.Message) bool { return answerA(m, "192.0.2.7", 60) })
	f := newFiles(t)
	f.upstreams(silent, broken, good)
	s := f.server()
	out := forwarded(t, s, query(t, "example.com.", dnsmessage.TypeA, 0), false)
	if got := say(t, out); got != "Success 192.0.2.7" || binary.BigEndian.Uint16(out) != 77 {
		t.Errorf("%s, id %d", got, binary.BigEndian.Uint16(out))
	}
	f.upstreams(broken)
	f.write()
	if got := say(t, forwarded(t, s, query(t, "example.org.", dnsmessage.TypeA, 0), false)); got != "ServerFailure" {
		t.Errorf("of a broken one: %s", got)
	}
	f.upstreams()
	f.write()
	if got := say(t, forwarded(t, s, query(t, "example.net.", dnsmessage.TypeA, 0), false)); got != "ServerFailure" {
		t.Errorf("without any: %s", got)
	}
}

// A server that nobody answers for ends in an error before clients give up.
func TestForwardToTheDeadIsBounded(t *testing.T) {
	t.Parallel()
	silent := newUpstream(t, func(*dnsmessage.Message) bool { return false })
	f := newFiles(t)
	f.upstreams(silent, silent)
	s := f.server()
	var asked int
	if got := say(t, forwarded(t, s, query(t, "example.com.", dnsmessage.TypeA, 0), false)); got != "ServerFailure" {
		t.Errorf("%s", got)
	}
	for len(silent.asked) > 0 {
		<-silent.asked
		asked++
	}
	if asked < 4 || asked > 8 { // each of two again every second
		t.Errorf("asked %d times", asked)
	}
	// A port that nobody has is known at once.
	refused := newUpstream(t, func(*dnsmessage.Message) bool { return false })
	f.conf.Upstreams = []Upstream{{netip.AddrPortFrom(addr("127.255.255.254"), refused.at.Port()), true}}
	f.write()
	if got := say(t, forwarded(t, s, query(t, "example.com.", dnsmessage.TypeA, 0), false)); got != "ServerFailure" {
		t.Errorf("of a closed port: %s", got)
	}
}

func TestForwardThroughTCP(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, func(m *dnsmessage.Message) bool { return answerA(m, "192.0.2.8", 0) })
	cut := newUpstream(t, func(m *dnsmessage.Message) bool { m.Truncated = true; return true })
	f := newFiles(t)
	f.upstreams(u)
	s := f.server()
	if got := say(t, forwarded(t, s, query(t, "example.com.", dnsmessage.TypeA, 0), true)); got != "Success 192.0.2.8" {
		t.Error(got)
	}
	if how := <-u.asked; how != "tcp example.com." {
		t.Error(how)
	}
	f.upstreams(cut)
	f.write()
	for range 2 { // not remembered: the client is going to ask again
		if got := say(t, forwarded(t, s, query(t, "example.com.", dnsmessage.TypeA, 0), false)); got != "Success cut" {
			t.Error(got)
		}
	}
	if len(cut.asked) != 2 {
		t.Errorf("asked %d times", len(cut.asked))
	}
}

// What is not an answer to the question does not count, whoever sent it.
func TestForwardTakesNoOthersAnswer(t *testing.T) {
	t.Parallel()
	liar := newUpstream(t, func(m *dnsmessage.Message) bool {
		switch {
		case strings.HasPrefix(m.Questions[0].Name.String(), "id"):
			m.ID++
		case strings.HasPrefix(m.Questions[0].Name.String(), "type"):
			m.Questions[0].Type = dnsmessage.TypeAAAA
		case strings.HasPrefix(m.Questions[0].Name.String(), "name"):
			m.Questions[0].Name = dnsmessage.MustNewName("other.com.")
		case strings.HasPrefix(m.Questions[0].Name.String(), "query"):
			m.Response = false
		case strings.HasPrefix(m.Questions[0].Name.String(), "case"):
			m.Questions[0].Name = dnsmessage.MustNewName(strings.ToUpper(m.Questions[0].Name.String()))
		}
		return answerA(m, "203.0.113.1", 60)
	})
	f := newFiles(t)
	f.upstreams(liar)
	s := f.server()
	type result struct{ name, got string }
	results := make(chan result, 5)
	names := []string{"id", "type", "name", "query", "case"}
	for _, n := range names {
		msg := query(t, n+".com.", dnsmessage.TypeA, 0)
		go func() {
			d := s.answer(msg, nil, false)
			var m dnsmessage.Message
			if err := m.Unpack(s.ask(d.q, msg, false)); err != nil {
				results <- result{n, err.Error()}
				return
			}
			results <- result{n, m.RCode.String()}
		}()
	}
	for range names {
		r := <-results
		want := "RCodeServerFailure"
		if r.name == "case" {
			want = "RCodeSuccess"
		}
		if r.got != want {
			t.Errorf("%s: %s, want %s", r.name, r.got, want)
		}
	}
}

func TestDotsOnly(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, func(m *dnsmessage.Message) bool { return answerA(m, "192.0.2.8", 60) })
	f := newFiles(t)
	f.upstreams(u)
	f.conf.DotsOnly = true
	s := f.server()
	if got := say(t, forwarded(t, s, query(t, "printer.", dnsmessage.TypeA, 0), false)); got != "NameError" {
		t.Error(got)
	}
	if got := say(t, forwarded(t, s, query(t, "printer.lan.", dnsmessage.TypeA, 0), false)); got != "Success 192.0.2.8" {
		t.Error(got)
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	s := f.server()
	c := &s.up.cache
	now := time.Unix(1e9, 0)
	ask := query(t, "example.com.", dnsmessage.TypeA, 0)
	q, _, _ := parseQuestion(ask, false)
	answer := func(edit func(m *dnsmessage.Message)) []byte {
		var m dnsmessage.Message
		must(t, m.Unpack(ask))
		m.Response = true
		edit(&m)
		out, err := m.Pack()
		must(t, err)
		return out
	}
	soa := func(m *dnsmessage.Message) {
		m.Authorities = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("com."), Type: dnsmessage.TypeSOA, Class: dnsmessage.ClassINET, TTL: 900},
			Body:   &dnsmessage.SOAResource{NS: dnsmessage.MustNewName("a."), MBox: dnsmessage.MustNewName("b."), MinTTL: 20},
		}}
	}
	for _, e := range []struct {
		name string
		msg  []byte
		keep time.Duration
	}{
		{"an answer", answer(func(m *dnsmessage.Message) { answerA(m, "192.0.2.1", 60) }), 60 * time.Second},
		{"a long-lived one", answer(func(m *dnsmessage.Message) { answerA(m, "192.0.2.1", 1<<31) }), longestCached},
		{"for once", answer(func(m *dnsmessage.Message) { answerA(m, "192.0.2.1", 0) }), 0},
		{"no such name", answer(func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeNameError; soa(m) }), 20 * time.Second},
		{"no such record", answer(soa), 20 * time.Second},
		{"no such name, without a reason", answer(func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeNameError }), 0},
		{"failure", answer(func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeServerFailure }), 0},
		{"cut", answer(func(m *dnsmessage.Message) { answerA(m, "192.0.2.1", 60); m.Truncated = true }), 0},
	} {
		c.entries, c.bytes = nil, 0
		c.put(ask, e.msg, now)
		if got := c.get(q, ask, now.Add(e.keep)); got != nil {
			t.Errorf("%s: too long", e.name)
		}
		got := c.get(q, ask, now.Add(e.keep-1))
		if (got != nil) != (e.keep > 0) {
			t.Errorf("%s: kept %v", e.name, got != nil)
		}
	}
	c.put(ask, answer(func(m *dnsmessage.Message) { answerA(m, "192.0.2.1", 60) }), now)
	q.id = 99
	var m dnsmessage.Message
	must(t, m.Unpack(c.get(q, ask, now.Add(41*time.Second))))
	if m.ID != 99 || m.Answers[0].Header.TTL != 19 {
		t.Errorf("id %d, ttl %d", m.ID, m.Answers[0].Header.TTL)
	}
	// However much is asked, it stays small.
	for i := range 10 * maxCached {
		other := query(t, fmt.Sprintf("n%d.example.com.", i), dnsmessage.TypeA, 0)
		c.put(other, answer(func(m *dnsmessage.Message) { answerA(m, "192.0.2.1", 60) }), now)
	}
	sum := 0
	for k, e := range c.entries {
		sum += len(k) + len(e.msg)
	}
	if len(c.entries) > maxCached || sum != c.bytes || sum > maxCachedBytes {
		t.Errorf("%d entries, %d bytes counted as %d", len(c.entries), sum, c.bytes)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(query(f, "web.n.", dnsmessage.TypeA, 1232))
	f.Add(query(f, "2.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, 0))
	f.Add(query(f, strings.Repeat("0.", 32)+"ip6.arpa.", dnsmessage.TypePTR, 0))
	fs := newFiles(f)
	var z Zone
	z.Add([]string{"web"}, addr("10.0.0.2"), addr("fd00::2"))
	fs.zone("n", &z)
	s := fs.server()
	f.Fuzz(func(t *testing.T, msg []byte) {
		q, _, drop := parseQuestion(msg, false) // outside of answer, which hides a panic
		if drop {
			return
		}
		if d := s.answer(msg, nil, false); d.msg != nil && (len(d.msg) > q.limit || len(d.msg) < headerLen || d.msg[2]&0x80 == 0) {
			t.Errorf("%x is answered with %x", msg, d.msg)
		}
	})
}

func FuzzUpstream(f *testing.F) {
	var m dnsmessage.Message
	must(f, m.Unpack(query(f, "example.com.", dnsmessage.TypeA, 0)))
	m.Response = true
	answerA(&m, "192.0.2.1", 60)
	seed, err := m.Pack()
	must(f, err)
	f.Add(seed)
	f.Fuzz(func(t *testing.T, msg []byte) {
		ask := query(t, "example.com.", dnsmessage.TypeA, 0)
		q, _, _ := parseQuestion(ask, false)
		_ = answers(msg, 77, q)
		ttls, _ := lifetimes(msg)
		for _, at := range ttls {
			if at < headerLen || at+4 > len(msg) {
				t.Fatalf("time to live at %d of %d bytes", at, len(msg))
			}
		}
		var c cache
		c.put(ask, msg, time.Unix(0, 0))
		_ = c.get(q, ask, time.Unix(1, 0))
	})
}

func FuzzZone(f *testing.F) {
	var z Zone
	z.Add([]string{"web", "a", "zz"}, addr("10.0.0.2"), addr("fd00::2"))
	f.Add(z.Bytes(), "web")
	f.Add([]byte("\n\n\n"), "")
	f.Fuzz(func(t *testing.T, text []byte, key string) {
		search(text, key, func(record) {})
		// What was put in is found among anything else that was.
		var z Zone
		z.Add([]string{key, string(text)}, addr("10.0.0.2"))
		if k := canonical(key); k != "" && !search(z.Bytes(), k, func(record) {}) {
			t.Errorf("%q is not found in %q", k, z.Bytes())
		}
	})
}

func BenchmarkLocal(b *testing.B) {
	f := newFiles(b)
	var z Zone
	for i := range 500 {
		z.Add([]string{fmt.Sprintf("container-%d", i)}, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	f.zone("n", &z)
	s := f.server()
	msg := query(b, "container-321.", dnsmessage.TypeA, 1232)
	out := make([]byte, 0, minUDP)
	b.ReportAllocs()
	for b.Loop() {
		if d := s.answer(msg, out, false); d.forward {
			b.Fatal("forwarded")
		}
	}
}
