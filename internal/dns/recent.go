package dns

// What is kept of answers that were given just now.
const (
	maxRecent    = 64
	maxRecentLen = 512 // of a question or an answer, in bytes
)

// recent is whole answers to local questions. Programs ask the same again and
// again, to the last flag: such a question needs no parsing. A question's key is
// its bytes without the id. The zero value is empty; it is one socket's own.
type recent struct {
	version uint64 // of the files
	answers map[string][]byte
}

// startAt forgets what was said from another version of the files.
func (r *recent) startAt(version uint64) {
	if r.version != version {
		r.version = version
		clear(r.answers)
	}
}

// get is the answer to msg, in buf.
func (r *recent) get(msg, buf []byte) (decision, bool) {
	if len(msg) < headerLen {
		return decision{}, false
	}
	a, ok := r.answers[string(msg[2:])] // does not allocate
	if !ok {
		return decision{}, false
	}
	return decision{msg: append(append(buf[:0], msg[:2]...), a[2:]...)}, true
}

// put remembers what became of msg, where that does not change.
func (r *recent) put(msg []byte, d decision) {
	if !d.same || len(msg) > maxRecentLen || len(d.msg) > maxRecentLen || len(d.msg) < headerLen {
		return
	}
	if r.answers == nil {
		r.answers = map[string][]byte{}
	}
	if len(r.answers) == maxRecent {
		clear(r.answers)
	}
	r.answers[cacheKey(msg)] = append([]byte(nil), d.msg...)
}
