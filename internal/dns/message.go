package dns

import (
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// minUDP is what every client takes in one datagram, maxUDP what we send at most
	// to one that says it takes more (EDNS): the loopback carries it in one piece.
	minUDP, maxUDP = 512, 4096
	maxTCP         = 1<<16 - 1
	headerLen      = 12
	// localTTL is how long a client may keep a local name. Seconds.
	localTTL = 5
)

// question is a well-formed query of one question.
type question struct {
	id     uint16
	header dnsmessage.Header
	q      dnsmessage.Question
	name   string // canonical; "" = none a zone could have
	limit  int    // of the answer's size
	edns   bool
}

// parseQuestion reads a query. When it is not one that can be answered, code says
// what to tell the client; drop: nothing, it is no query at all.
func parseQuestion(msg []byte, tcp bool) (q question, code dnsmessage.RCode, drop bool) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.Response {
		return q, 0, true
	}
	q.header, q.id, q.limit = h, h.ID, minUDP
	if tcp {
		q.limit = maxTCP
	}
	if h.OpCode != 0 {
		return q, dnsmessage.RCodeNotImplemented, false
	}
	q.q, err = p.Question()
	if err != nil {
		return q, dnsmessage.RCodeFormatError, false
	}
	if _, err := p.Question(); err != dnsmessage.ErrSectionDone { //nolint:errorlint // never wrapped
		return q, dnsmessage.RCodeFormatError, false
	}
	q.name = canonical(q.q.Name.String())
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return q, dnsmessage.RCodeFormatError, false
	}
	for {
		rh, err := p.AdditionalHeader()
		if err == dnsmessage.ErrSectionDone { //nolint:errorlint // never wrapped
			return q, dnsmessage.RCodeSuccess, false
		}
		if err != nil {
			return q, dnsmessage.RCodeFormatError, false
		}
		if rh.Type == dnsmessage.TypeOPT {
			q.edns = true
			if size := int(rh.Class); !tcp && size > q.limit {
				q.limit = min(size, maxUDP)
			}
		}
		if p.SkipAdditional() != nil {
			return q, dnsmessage.RCodeFormatError, false
		}
	}
}

// reply builds answers into buf. withQuestion is false only where the query's own
// question could not be read.
func (q *question) reply(buf []byte, code dnsmessage.RCode, withQuestion, local bool, add func(*dnsmessage.Builder, dnsmessage.ResourceHeader) error) []byte {
	h := dnsmessage.Header{
		ID: q.id, Response: true, OpCode: q.header.OpCode, RecursionDesired: q.header.RecursionDesired,
		RecursionAvailable: true, Authoritative: local, RCode: code,
	}
	b := dnsmessage.NewBuilder(buf[:0], h)
	b.EnableCompression()
	err := b.StartQuestions()
	if err == nil && withQuestion {
		err = b.Question(q.q)
	}
	if err == nil {
		err = b.StartAnswers()
	}
	if err == nil && add != nil {
		err = add(&b, dnsmessage.ResourceHeader{Name: q.q.Name, Class: dnsmessage.ClassINET, TTL: localTTL})
	}
	if err == nil && q.edns {
		var opt dnsmessage.ResourceHeader
		if err = b.StartAdditionals(); err == nil {
			err = opt.SetEDNS0(maxUDP, dnsmessage.RCodeSuccess, false)
		}
		if err == nil {
			err = b.OPTResource(opt, dnsmessage.OPTResource{})
		}
	}
	if err != nil {
		return failure(buf, q.id, dnsmessage.RCodeServerFailure)
	}
	msg, err := b.Finish()
	if err != nil {
		return failure(buf, q.id, dnsmessage.RCodeServerFailure)
	}
	return msg
}

// failure is an answer that is a header only.
func failure(buf []byte, id uint16, code dnsmessage.RCode) []byte {
	const response, available = 0x80, 0x80
	return append(buf[:0], byte(id>>8), byte(id), response, available|byte(code), 0, 0, 0, 0, 0, 0, 0, 0) //nolint:gosec // four bits
}

// addresses answers with as many addresses as fit; whatever does not is said to be
// cut off, so that the client asks again through TCP.
func (q *question) addresses(buf []byte, addrs []netip.Addr) []byte {
	const record4, record6, opt = 16, 28, 11
	room := q.limit - headerLen - len(q.q.Name.String()) - 1 - 4 - opt
	cut := false
	msg := q.reply(buf, dnsmessage.RCodeSuccess, true, true, func(b *dnsmessage.Builder, h dnsmessage.ResourceHeader) error {
		for _, a := range addrs {
			size, is4 := record6, a.Is4()
			if is4 {
				size = record4
			}
			if is4 && q.q.Type == dnsmessage.TypeAAAA || !is4 && q.q.Type == dnsmessage.TypeA {
				continue
			}
			if room -= size; room < 0 {
				cut = true
				return nil
			}
			var err error
			if is4 {
				err = b.AResource(h, dnsmessage.AResource{A: a.As4()})
			} else {
				err = b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if cut {
		setTruncated(msg)
	}
	return msg
}

func setTruncated(msg []byte) {
	const truncated = 0x02
	if len(msg) >= headerLen {
		msg[2] |= truncated
	}
}

func isTruncated(msg []byte) bool { return len(msg) >= headerLen && msg[2]&0x02 != 0 }

// pointer answers a question for the name of an address.
func (q *question) pointer(buf []byte, name string) []byte {
	return q.reply(buf, dnsmessage.RCodeSuccess, true, true, func(b *dnsmessage.Builder, h dnsmessage.ResourceHeader) error {
		n, err := dnsmessage.NewName(name + ".")
		if err != nil {
			return err
		}
		return b.PTRResource(h, dnsmessage.PTRResource{PTR: n})
	})
}

// parseReverse reads the address of a name below in-addr.arpa or ip6.arpa.
func parseReverse(name string) (netip.Addr, bool) {
	if s, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(s, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil
	}
	s, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(s) != 63 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		at := 62 - 2*i
		if i > 0 && s[at+1] != '.' {
			return netip.Addr{}, false
		}
		d := strings.IndexByte("0123456789abcdef", s[at])
		if d < 0 {
			return netip.Addr{}, false
		}
		b[i/2] = b[i/2]<<4 | byte(d)
	}
	return netip.AddrFrom16(b), true
}
