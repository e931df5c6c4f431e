package engine

import (
	"strings"
	"testing"
)

// One id in 280 has no letter in its first twelve digits by chance.
func TestHostNameOfAnIDIsNoNumber(t *testing.T) {
	t.Parallel()
	for range 5000 {
		if id := newID(); len(id) != 64 || !strings.ContainsAny(id[:12], "abcdef") {
			t.Fatal(id)
		}
	}
}
