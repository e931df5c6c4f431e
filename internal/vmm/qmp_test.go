package vmm

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"
)

// answer is QEMU's end of a conversation: it answers each command with what answers has
// for it, else with nothing, and returns what it was asked.
func answer(conn *os.File, answers map[string]string) <-chan []string {
	asked := make(chan []string, 1)
	go func() {
		defer conn.Close()
		var all []string
		fmt.Fprintln(conn, `{"QMP": {}}`)
		for s := bufio.NewScanner(conn); s.Scan(); {
			var m struct {
				Execute   string          `json:"execute"`
				Arguments json.RawMessage `json:"arguments"`
			}
			if err := json.Unmarshal(s.Bytes(), &m); err != nil {
				break
			}
			all = append(all, m.Execute+" "+string(m.Arguments))
			result := answers[m.Execute]
			if result == "" {
				result = "{}"
			}
			fmt.Fprintf(conn, "{\"return\": %s}\n", result)
		}
		asked <- all
	}()
	return asked
}

// TestRestoreIsNotAnnounced: QEMU knows that it is to announce nothing before it has the
// machine's state, with which it would begin.
func TestRestoreIsNotAnnounced(t *testing.T) {
	t.Parallel()
	ours, theirs, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	asked := answer(theirs, map[string]string{"query-migrate": `{"status": "completed"}`})
	q, err := NewQMP(t.Context(), ours, nil)
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := q.Restore(t.Context(), null); err != nil {
		t.Fatal(err)
	}
	q.Close()
	all := <-asked
	silent := slices.Index(all, `migrate-set-parameters {"announce-rounds":0}`)
	begins := slices.Index(all, `migrate-incoming {"uri":"fd:`+stateName+`"}`)
	if silent < 0 || begins < silent || !slices.Contains(all, "cont ") {
		t.Errorf("asked: %q", all)
	}
}
